"""Stores of every schema that there was, brought to the newest: by a start, by `manyhats migrate`, killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manyhats.errors import ConfigurationError
from manyhats.registry.database import SCHEMA, Base
from manyhats.registry.registry import Registry
from manyhats.registry.stores.choose import metadata_store
from manyhats.registry.stores.looking import database_state, migrate_database
from manyhats.registry.stores.migration import schema_of
from sqlalchemy import Engine, create_engine, inspect, text

from tests.registry.helpers import inspect as inspect_adapter
from tests.registry.helpers import upload

Open = Callable[..., Registry]

OLD = """
CREATE TABLE drops
    (folder VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL, outcome VARCHAR NOT NULL, PRIMARY KEY (folder));
INSERT INTO drops VALUES ('copied', 'abc', 'taken in as version 1');
DROP TABLE changes; DROP TABLE folder_imports; DROP TABLE alembic_version;
"""
# The tables that a store of schema 1 may lack: they were made by the start.
LACKS = {2: (), 1: ("rollouts", "evaluations", "audit")}


def age(engine: Engine, schema: int) -> None:
    """Makes of a store of today one as a Manyhats of before has left it."""
    with engine.begin() as connection:
        for statement in filter(str.strip, OLD.split(";")):
            connection.execute(text(statement))
        for table in LACKS[schema]:
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text(f"UPDATE schema SET version = {schema}"))


def engine_of(store: Path, url: str = "") -> Engine:
    sqlite = f"sqlite:///{store / '.manyhats' / 'registry.sqlite3'}"
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://") or sqlite)


def shape(engine: Engine) -> dict[str, Any]:
    """The tables with their columns, keys and indices."""
    found = inspect(engine)
    return {
        table: (
            {(c["name"], str(c["type"]).replace("DOUBLE", "FLOAT"), c["nullable"]) for c in found.get_columns(table)},
            found.get_pk_constraint(table)["constrained_columns"],
            {(tuple(i["column_names"]), bool(i["unique"])) for i in found.get_indexes(table)},
            {
                (*key["constrained_columns"], key["referred_table"], *key["options"].values())
                for key in found.get_foreign_keys(table)
            },
        )
        for table in found.get_table_names()
    }


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Of an empty PostgreSQL; empty for SQLite."""
    return "" if request.param == "sqlite" else request.getfixturevalue("database_url")


def started(store: Path, url: str, **options: bool) -> Registry:
    registry = Registry(store, inspect_adapter, database=metadata_store(url, store / ".manyhats", **options))
    registry.open()
    return registry


@pytest.mark.parametrize("schema", LACKS)
def test_an_older_store_is_brought_up_to_date(store: Path, url: str, schema: int) -> None:
    registry = started(store, url)
    upload(registry, "spam", "a")
    upload(registry, "spam", "b")
    before = registry.all()
    registry.close()
    engine = engine_of(store, url)
    new = shape(engine)
    age(engine, schema)
    assert f"schema {schema}, older" in database_state(url, store / ".manyhats")
    if url:
        with pytest.raises(ConfigurationError, match=f"has schema {schema}.*manyhats migrate"):
            started(store, url)
    registry = started(store, url, migrate=True)
    assert registry.all() == before
    assert registry.rollback("spam").stable_versions[0].number == 1
    with registry._database.read() as session:
        assert session.execute(text("SELECT * FROM folder_imports")).all() == [
            ("", "copied", "abc", "taken in as version 1")
        ]
    registry.close()
    assert shape(engine) == new
    assert set(new) == {*Base.metadata.tables, "alembic_version"}
    with engine.connect() as connection:
        assert schema_of(connection) == SCHEMA
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("0003",)]
    engine.dispose()


def test_migrating_is_said_and_done_once(store: Path, url: str) -> None:
    started(store, url).close()
    engine = engine_of(store, url)
    age(engine, 2)
    assert migrate_database(url, store / ".manyhats") == (2, SCHEMA)
    assert migrate_database(url, store / ".manyhats") == (SCHEMA, SCHEMA)
    assert f", schema {SCHEMA}" in database_state(url, store / ".manyhats")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema SET version = 99"))
    with pytest.raises(ConfigurationError, match="newer Manyhats"):
        migrate_database(url, store / ".manyhats")
    engine.dispose()


@pytest.mark.parametrize("end", [1, 2, 4, 7, 9])
def test_killed_while_migrating_it_is_done_by_the_next(store: Path, url: str, end: int, tmp_path: Path) -> None:
    """The process ends before the statement of that number."""
    registry = started(store, url)
    upload(registry, "spam", "a")
    before = registry.all()
    registry.close()
    engine = engine_of(store, url)
    age(engine, 1)
    engine.dispose()
    child = os.fork()
    if not child:
        from sqlalchemy import event

        seen = 0

        @event.listens_for(Engine, "before_cursor_execute")
        def count(_: Any, __: Any, statement: str, *___: Any) -> None:
            nonlocal seen
            seen += statement.lstrip().startswith(("CREATE", "INSERT", "DROP", "UPDATE", "DELETE"))
            if seen == end:
                os.kill(os.getpid(), signal.SIGKILL)

        migrate_database(url, store / ".manyhats")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with engine.connect() as connection:
        assert schema_of(connection) == 1
        assert "drops" in inspect(connection).get_table_names()
        assert "changes" not in inspect(connection).get_table_names()
    engine.dispose()
    registry = started(store, url, migrate=True)
    assert registry.all() == before
    registry.close()


def test_a_store_as_an_older_release_has_written_it(store: Path, opened: Open) -> None:
    """Its own statements, not ours of today."""
    root = store / ".manyhats"
    root.mkdir(parents=True)
    with sqlite3.connect(root / "registry.sqlite3") as connection:
        connection.executescript((Path(__file__).parent / "schema_2.sql").read_text())
    connection.close()
    shutil.copy(root / "registry.sqlite3", root / "before")
    registry = opened(store)
    assert [version.number for version in registry.task("spam").versions] == [1, 2]
    assert registry.task("spam").settings.priority == 3
    assert registry.imports() == {"copied": ("abc", "taken in as version 1")}
    assert [entry.action for entry in registry.audit.page(5, None)[0]] == ["upload", "upload"]

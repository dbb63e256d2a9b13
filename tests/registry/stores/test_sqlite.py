"""The tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from manyhats.errors import ConfigurationError, DamagedStore, ManyhatsError, NotReady, StorageFull
from manyhats.registry.database import SCHEMA, Base
from manyhats.registry.stores.sqlite import connect, write_failed
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateTable


def test_a_database_survives_being_opened_twice(tmp_path: Path) -> None:
    for make in (True, False):
        sessions = connect(tmp_path / "registry.sqlite3", make=make)
        with sessions() as session:
            assert session.execute(text("SELECT version FROM schema")).scalars().all() == [SCHEMA]
        sessions.kw["bind"].dispose()


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE schema (version INTEGER PRIMARY KEY)"))
        connection.execute(text(f"INSERT INTO schema VALUES ({SCHEMA + 1})"))
    with pytest.raises(ConfigurationError, match="newer"):
        connect(path)
    assert inspect(engine).get_table_names() == ["schema"]
    engine.dispose()


def test_commits_are_durable_and_references_are_enforced(tmp_path: Path) -> None:
    sessions = connect(tmp_path / "registry.sqlite3")
    with sessions() as session:
        values = [session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
        assert values == ["wal", 2]
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
    sessions.kw["bind"].dispose()


def test_a_path_is_no_url(tmp_path: Path) -> None:
    path = tmp_path / "what? 100%20" / "registry.sqlite3"
    path.parent.mkdir()
    connect(path).kw["bind"].dispose()
    assert path.exists()


def test_the_tables_can_be_made_in_postgresql() -> None:
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


@pytest.mark.parametrize(
    ("said", "name", "kind"),
    [
        ("database or disk is full", "SQLITE_FULL", StorageFull),
        ("disk I/O error", "SQLITE_IOERR_WRITE", StorageFull),
        ("disk I/O error", "SQLITE_IOERR_READ", DamagedStore),
        ("database disk image is malformed", "SQLITE_CORRUPT", DamagedStore),
        ("UNIQUE constraint failed: versions.task", "SQLITE_CONSTRAINT", DamagedStore),
        ("database is locked", "SQLITE_BUSY", NotReady),
    ],
)
def test_a_write_that_failed_is_reported_by_its_cause(said: str, name: str, kind: type[ManyhatsError]) -> None:
    cause = sqlite3.OperationalError(said)
    cause.sqlite_errorname = name
    assert type(write_failed(DatabaseError("COMMIT", {}, cause))) is kind

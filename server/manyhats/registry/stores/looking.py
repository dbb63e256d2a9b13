"""Looks into a database beside the servers that use it: a reading of one moment, what it is, and its schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from manyhats.errors import ConfigurationError, ManyhatsError
from manyhats.registry.database import SCHEMA
from manyhats.registry.stores.choose import postgresql_store
from manyhats.registry.stores.migration import check_known, make_tables, migrate, schema_of
from manyhats.registry.stores.sqlite import FILE, connect


@contextmanager
def reading(url: str, folder: Path) -> Iterator[Session]:
    """A session that sees one moment, of PostgreSQL at `url` or of SQLite in `folder`. Nothing is changed.

    Raises ConfigurationError where there is no database, it cannot be read or has another schema.
    """
    with _session(url, folder) as (session, schema):
        if schema != SCHEMA:
            raise ConfigurationError(
                f"the database has schema {schema}, and this Manyhats needs {SCHEMA}: run `manyhats migrate`"
                if check_known(schema)
                else "the database is empty: no server has used it yet"
            )
        yield session


def database_state(url: str, folder: Path) -> str:
    """In words, for `manyhats doctor`: which database it is, whether it can be used, and its schema."""
    try:
        if not url:
            if not (folder / FILE).exists():
                return "SQLite in the store; a server makes it"
            with _session("", folder) as (_, schema):
                return f"SQLite in the store, {_schema(schema)}"
        from manyhats.registry.stores.postgresql_connection import connect, described
    except ModuleNotFoundError as error:
        return f"PostgreSQL, but {error.name} is not installed: pip install 'manyhats[postgres]'"
    except ManyhatsError as error:
        return error.message
    try:
        where = described(url)
        with connect(url) as connection:
            version = connection.info.server_version // 10_000
        with _session(url, folder) as (_, schema):
            return f"PostgreSQL {version} at {where}, {_schema(schema)}"
    except ManyhatsError as error:
        return error.message
    except Exception as error:  # of the driver
        return f"{where} cannot be reached: {' '.join(str(error).split())}"


def migrate_database(url: str, folder: Path) -> tuple[int, int]:
    """Brings a database to this Manyhats's schema, in one transaction. The schema before and after; 0: there was none.

    SQLite's store must not be open elsewhere. Raises ConfigurationError where it cannot be used.
    """
    if not url:
        with _session("", folder) as (_, schema):
            before = check_known(schema)
        connect(folder / FILE, make=False).kw["bind"].dispose()
        return before, SCHEMA
    store = postgresql_store(url, folder)
    try:
        with store.changing_schema() as (connection, known):
            if not known:
                make_tables(connection)
            elif known < SCHEMA:
                migrate(connection)
    finally:
        store.close()
    return known, SCHEMA


@contextmanager
def _session(url: str, folder: Path) -> Iterator[tuple[Session, int]]:
    if url:
        from manyhats.registry.stores.postgresql_connection import connect, described

        where = f"database {described(url)}"
        engine = create_engine("postgresql+psycopg://", creator=lambda: connect(url), isolation_level="REPEATABLE READ")
    else:
        path = folder / FILE
        if not path.exists():
            raise ConfigurationError(f"there is no store in '{folder.parent}': its database '{path}' is not there")
        where = f"database '{path}'"
        engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        with engine.connect() as connection:
            if not url:  # the module begins no transaction to read
                connection.exec_driver_sql("BEGIN")
            with Session(connection) as session:
                yield session, schema_of(connection)
    except DBAPIError as error:
        raise ConfigurationError(f"the {where} cannot be read: {' '.join(str(error.orig).split())}") from error
    finally:
        engine.dispose()


def _schema(schema: int) -> str:
    if schema == SCHEMA:
        return f"schema {schema}"
    if schema > SCHEMA:
        return f"schema {schema} of a newer Manyhats; this one has {SCHEMA}"
    return f"schema {schema}, older than this Manyhats's {SCHEMA}: `manyhats migrate`" if schema else "empty"

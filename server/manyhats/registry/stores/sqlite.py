"""SQLite beside the adapters, for one server: one write at a time, and disk space reserved for deletions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from manyhats.disk import is_full
from manyhats.errors import ConfigurationError, DamagedStore, ManyhatsError, NotReady, StorageFull
from manyhats.registry.database import SCHEMA, Base
from manyhats.registry.reserve import Reserve
from manyhats.registry.stores.base import BringIn, StoreState, not_made
from manyhats.registry.stores.migration import check_known, make_tables, migrate, schema_of

T = TypeVar("T")

FILE = "registry.sqlite3"


class SqliteStore:
    """The database in a folder, and the disk space that is reserved beside it."""

    shared = False
    server = ""
    state = StoreState("sqlite")

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._reserve = Reserve(folder / "reserve")
        self._sessions: sessionmaker[Session]
        self.lock = threading.RLock()

    def open(self, *, make: bool | None) -> None:
        """Opens the database, or makes one where `make` allows it. Raises what `connect` raises."""
        try:
            self._sessions = connect(self._path, make=make)
        except OperationalError:  # perhaps a full disk: reading needs a little space, too
            self._reserve.release()
            self._sessions = connect(self._path, make=make)
        self._reserve.create()

    def close(self) -> None:
        """Closes the database."""
        self._sessions.kw["bind"].dispose()

    def opening(self) -> Session:
        """A session to read everything in: nobody else writes."""
        return self._sessions()

    def follow(self, bring_in: BringIn, tell: Callable[[], None]) -> None:
        """Nothing: no other server writes."""

    def read(self) -> Session:
        """A session to read in."""
        return self._sessions()

    @contextmanager
    def write(self, task: str | None = None) -> Iterator[Session]:
        """A session to write and commit in; raises what `write_failed` makes of a failure."""
        with self.lock:
            try:
                with self._sessions() as session:
                    yield session
            except DatabaseError as error:
                raise write_failed(error) from error

    def delete(self, delete: Callable[[], T]) -> T:
        """Runs a deletion, which writes by itself; on a full disk, with the space that is reserved for it."""
        try:
            return delete()
        except StorageFull:
            self._reserve.release()
            self.truncate_log()
            try:
                return delete()
            finally:
                self.truncate_log()  # what the deletion wrote is reserved again
        finally:
            self._reserve.create()

    def truncate_log(self) -> None:
        """Frees the disk space of the write-ahead log, as far as that is possible."""
        with suppress(DBAPIError), self._sessions.kw["bind"].connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def connect(path: Path, *, make: bool | None = True) -> sessionmaker[Session]:
    """Opens the database, brings an older one up to date, or makes one where there is none and `make` allows it.

    Raises ConfigurationError for one that is lost, damaged or written by a newer Manyhats; it is left as it is.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))
    _durable(engine)
    try:
        with engine.connect() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if found != "ok":
            raise ConfigurationError(f"the store's database is damaged: {' '.join(found.split())}")
        with engine.connect() as connection:
            known = check_known(schema_of(connection))
        if not known and not make:
            raise not_made(
                make,
                f"the store has adapters, but its database is lost: bring back '{path}', or remove '{path.parent}' "
                "to begin anew",
            )
        if known < SCHEMA:
            _bring_up_to_date(engine, known)
        Base.metadata.create_all(engine)  # a table that was lost
    except BaseException:
        engine.dispose()
        raise
    return sessionmaker(engine)


def _bring_up_to_date(engine: Engine, known: int) -> None:
    """All of it in one transaction, so that a killed process leaves the tables as they were."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.isolation_level = None  # the module would begin no transaction before it changes tables
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if known:
            migrate(connection)
        else:
            make_tables(connection)
        connection.commit()
        connection.invalidate()  # the next one is as they all are


def write_failed(error: DatabaseError) -> ManyhatsError:
    """The error for the caller of a write that failed, of which nothing was done."""
    if is_full(error):
        return StorageFull("the store has no room: the disk is full")
    if "locked" in str(error.orig):
        return NotReady("another process holds the store's database; try again")
    # A quota or a limit on the size of files does this, too: SQLite has no other name for it.
    if getattr(error.orig, "sqlite_errorname", "") == "SQLITE_IOERR_WRITE":
        return StorageFull(f"the store cannot be written: {error.orig}; a disk, a quota or a limit may be exhausted")
    return DamagedStore(f"the store's database cannot be written: {error.orig}")


def _durable(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def pragmas(connection: Any, _: Any) -> None:
        # The write-ahead log stays short, so that it does not fill a small disk.
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=50", "temp_store=MEMORY"
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

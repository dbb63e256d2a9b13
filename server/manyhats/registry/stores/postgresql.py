"""PostgreSQL, for one server or for several: one write at a time, by a lock of the database's, and all follow.

A write takes the lock, brings memory up to date from the table `changes`, does its work, and adds its own row there. A
thread waits for the notices of the others' commits, and looks for itself each second, so that a notice that is lost, or
that a pooler of connections never passes on, costs a second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, create_engine, delete, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from manyhats.disk import is_full
from manyhats.errors import ConfigurationError, DamagedStore, ManyhatsError, NotReady, StorageFull
from manyhats.registry.database import SCHEMA, ChangeRow
from manyhats.registry.stores.base import BringIn, StoreState, not_made
from manyhats.registry.stores.migration import check_known, make_tables, migrate, schema_of
from manyhats.registry.stores.postgresql_connection import connect, described, unhurried

logger = logging.getLogger(__name__)

T = TypeVar("T")

OLDEST = 15  # the oldest PostgreSQL that this is tried with
CHANNEL = "manyhats_changes"
KEPT = 10_000  # changes; a server that missed more compares all tasks
_LOCK = 0x6D616E7968617473  # of all writes; a number that nobody else has
_POLL = 1.0  # seconds
_SOON = 0.05  # seconds until a lost connection is tried again at first
_CONNECTIONS = 5
# What passes: lost connections (08, 57P), a lock (55P03, 40), too many clients (53), a standby (25006).
_PASSES = ("08", "40", "53", "57P", "55P03", "57014", "25006", "25P03")


class PostgresqlStore:
    """The database at a url. `server`: the name of this server's folders. `migrate`: whether an older schema is brought
    up to date at the start."""

    shared = True

    def __init__(self, url: str, server: str, *, migrate: bool = False) -> None:
        self._url = url
        self.where = described(url)
        self.server = server
        self._migrate = migrate
        self.lock = threading.RLock()
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(url),
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=5.0,
            pool_pre_ping=True,
        )
        self._sessions = sessionmaker(self._engine, class_=_Writing)
        # All that one reading sees is of one moment.
        self._readings = sessionmaker(self._engine.execution_options(isolation_level="REPEATABLE READ"))
        self._seen = 0  # the newest change that memory has; `lock` guards it
        self._bring_in: BringIn | None = None
        self._tell: Callable[[], None] = lambda: None
        self._problem = ""
        self._followed = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> StoreState:
        """How it is now."""
        return StoreState("postgresql", self._problem, self._followed)

    # ---- life

    def open(self, *, make: bool | None) -> None:
        """Makes the tables where there are none and `make` allows it.

        Raises ConfigurationError for a database that is out of reach, too old, empty beside adapters, of an older
        schema that may not be brought up to date, or of a newer one.
        """
        with self.changing_schema() as (connection, known):
            if known == SCHEMA:
                return
            if known and not self._migrate:
                raise ConfigurationError(
                    f"the database {self.where} has schema {known}, and this Manyhats needs {SCHEMA}: stop all servers "
                    "of the version before and run `manyhats migrate`, or start with --database-migrate"
                )
            if not known and not make:
                raise not_made(
                    make,
                    f"the store has adapters, but the database {self.where} is empty: give the database that they "
                    "belong to, or restore a backup of it",
                )
            if known:
                migrate(connection)
            else:
                make_tables(connection)

    @contextmanager
    def changing_schema(self) -> Iterator[tuple[Connection, int]]:
        """A transaction under the lock, and the schema that the database has. Raises ConfigurationError."""
        try:
            with self._engine.begin() as connection:
                number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
                if number // 10_000 < OLDEST:
                    raise ConfigurationError(
                        f"the database {self.where} is PostgreSQL {number // 10_000}; {OLDEST} or newer is needed"
                    )
                _lock(connection)
                with unhurried(connection):
                    yield connection, check_known(schema_of(connection))
        except BaseException as error:
            self._engine.dispose()
            if not isinstance(error, DBAPIError | PoolTimeout):
                raise
            raise ConfigurationError(f"the database {self.where} cannot be used: {_reason(error)}") from error

    def follow(self, bring_in: BringIn, tell: Callable[[], None]) -> None:
        """From now on brings in what other servers change, in a thread and before each write."""
        self._bring_in, self._tell = bring_in, tell
        self._stopping.clear()
        self._thread = threading.Thread(target=self._listen, name="registry-changes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and all connections."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10.0)
            self._thread = None
        self._bring_in = None
        self._engine.dispose()

    # ---- reading and writing

    @contextmanager
    def opening(self) -> Iterator[Session]:
        """A session to read everything in, while no other server writes."""
        with self.write() as session, unhurried(session.connection()):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session to read in. Raises NotReady where the database cannot be reached."""
        self._check_up()
        try:
            with self._readings() as session:
                yield session
        except (DBAPIError, PoolTimeout) as error:
            raise self._failed(error, "") from error

    @contextmanager
    def write(self, task: str | None = None) -> Iterator[Session]:
        """A session to write and commit in. Raises StorageFull, NotReady or DamagedStore for a failed write."""
        try:
            self._check_up()
            with self.lock:
                self._check_up()
                session = self._sessions(info={"task": task})
                try:
                    with session:
                        _lock(session.connection())
                        self._catch_up(session)
                        yield session
                except (DBAPIError, PoolTimeout) as error:
                    raise self._failed(error, session.info.get("committing", "nothing was changed; ")) from error
                self._seen = session.info.get("change", self._seen)
        finally:
            self._tell()

    def delete(self, delete: Callable[[], T]) -> T:
        """Runs a deletion."""
        return delete()

    def _check_up(self) -> None:
        """Raises NotReady at once while the database is known to be out of reach: the thread notices its return."""
        if self._problem:
            raise NotReady(_gone("nothing was changed; "))

    def _failed(self, error: DBAPIError | PoolTimeout, outcome: str) -> ManyhatsError:
        """The error for the caller. One that passes is logged, as it names the machine."""
        if is_full(error):
            return StorageFull("the database has no room: its disk is full")
        code = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
        lost = not code or (isinstance(error, DBAPIError) and error.connection_invalidated)
        if lost or code.startswith(_PASSES):
            reason = _reason(error)
            logger.warning("the database %s: %s", self.where, reason)
            if lost and not isinstance(error, PoolTimeout):  # nobody else need wait for it; the thread looks again
                self._set_problem(reason)
            return NotReady(_gone(outcome))
        return DamagedStore(f"the database failed on the change: {error.orig}")  # type: ignore[union-attr]

    # ---- what other servers change

    def _catch_up(self, session: Session) -> None:
        """Brings in what was changed since memory was last up to date. `lock` is held."""
        newest, oldest = session.execute(select(func.max(ChangeRow.id), func.min(ChangeRow.id))).one()
        newest, oldest = newest or 0, oldest or 0
        if self._bring_in is None:  # everything is about to be read
            self._seen = newest
        elif newest != self._seen:
            names: Collection[str] | None = None  # all: another database was put in its place, or too much was missed
            if newest > self._seen and oldest <= self._seen + 1:
                names = set(session.scalars(select(ChangeRow.task).where(ChangeRow.id > self._seen)))
            self._bring_in(session, names)
            self._followed += max(newest - self._seen, 0)
            self._seen = newest

    def _synchronise(self) -> None:
        with self.lock, self._readings() as session:
            self._catch_up(session)
        self._tell()

    def _listen(self) -> None:
        """The thread: waits for notices, and after a lost connection brings in all that was missed."""
        failed, wait = "", _SOON
        while not self._stopping.is_set():
            try:
                with connect(self._url, autocommit=True) as listening:
                    listening.execute(f"LISTEN {CHANNEL}")  # before looking, so that nothing falls between
                    while not self._stopping.is_set():
                        self._synchronise()
                        self._set_problem("")
                        wait = _SOON
                        for _ in listening.notifies(timeout=_POLL, stop_after=1):
                            pass
            except (psycopg.Error, DBAPIError, PoolTimeout) as error:
                self._set_problem(_reason(error))
            except Exception as error:
                if repr(error) != failed:  # it is tried each second
                    logger.exception("bringing in what other servers changed failed; that is tried again")
                failed = repr(error)
            self._stopping.wait(wait)
            wait = min(2 * wait, _POLL)

    def _set_problem(self, problem: str) -> None:
        if problem and not self._problem:
            logger.error("the database %s is lost: %s; what is in memory answers on", self.where, problem)
        elif self._problem and not problem:
            logger.warning("the database %s is back", self.where)
        self._problem = problem


class _Writing(Session):
    """A session that tells the other servers what it commits. `info`: `task`, and afterwards `change`, its row's id."""

    def commit(self) -> None:
        """Commits; with a task, its change too."""
        change: Any = None
        if self.info["task"] is not None:
            change = ChangeRow(task=self.info["task"])
            self.add(change)
            self.flush()
            change = change.id
            self.execute(delete(ChangeRow).where(ChangeRow.id <= change - KEPT))
            self.execute(text(f"NOTIFY {CHANNEL}"))
        self.info["committing"] = "the connection was lost as the change was committed: look whether it is there; "
        super().commit()
        self.info["committing"] = ""
        if change is not None:
            self.info["change"] = change


def _lock(connection: Connection) -> None:
    """Waits until no other server writes. A server that hangs in a change, or is cut off, holds it for a while only."""
    connection.exec_driver_sql("SET LOCAL lock_timeout = '8s'")
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '120s'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _gone(outcome: str) -> str:
    return f"the database cannot be reached now; {outcome}try again"

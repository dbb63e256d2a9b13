"""Connections to PostgreSQL that give up: on a server that cannot be reached, and on one that does not answer."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection

from manyhats.errors import WrongSetting

T = TypeVar("T")

PATIENCE = 10.0  # seconds for one statement; for what goes through whole tables, see `unhurried`
_UNHURRIED = 600.0
_OPTIONS: dict[str, Any] = {
    "application_name": "manyhats",
    "connect_timeout": 5,  # seconds
    # A machine that is gone without a word is noticed after some ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


class PatientConnection(psycopg.Connection[Any]):
    """A connection whose statements take `patience` seconds at most; what takes longer breaks it."""

    patience = PATIENCE

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **named: Any) -> T:
        """Waits for a statement. Raises OperationalError after `patience` seconds, and is closed then."""
        return super().wait(self._bounded(gen), *args, **named)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        end = time.monotonic() + self.patience
        try:
            state = next(gen)
            while True:
                ready = yield state
                if time.monotonic() > end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the database has not answered for {self.patience:g} seconds")
                state = gen.send(ready)
        except StopIteration as stop:
            return cast("T", stop.value)


def connect(url: str, **options: Any) -> PatientConnection:
    """A new connection. What the url says wins over what is usual here. Raises psycopg.OperationalError."""
    given = _given(url)
    return PatientConnection.connect(**(_OPTIONS | given), prepare_threshold=None, **options)  # poolers mix sessions


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Meanwhile a statement may take as long as going through a large table does."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, PatientConnection)
    driver.patience = _UNHURRIED
    try:
        yield
    finally:
        del driver.patience  # that of all


def described(url: str) -> str:
    """Where a database is, without who asks and with what password."""
    given = _given(url)
    where = f"{given.get('host', 'localhost')}:{given.get('port', 5432)}"
    return f"postgresql://{where}/{given.get('dbname', given.get('user', ''))}"


def _given(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError as error:
        # Its text may have the password in it.
        raise WrongSetting(
            "setting 'database_url': it is no address of a database; write postgresql://user@host:5432/name"
        ) from error

"""Reading and writing the registry's database: one write at a time, and disk space reserved for deletions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from manyhats.errors import StorageFull
from manyhats.registry.database import connect, truncate_log, write_failed
from manyhats.registry.reserve import Reserve

T = TypeVar("T")


class Transactions:
    """The database in a folder, and the disk space that is reserved beside it. `lock`: held by whoever writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "registry.sqlite3"
        self._reserve = Reserve(folder / "reserve")
        self._sessions: sessionmaker[Session]
        self.lock = threading.RLock()

    def open(self, *, make: bool) -> None:
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

    def read(self) -> Session:
        """A session to read in."""
        return self._sessions()

    @contextmanager
    def write(self) -> Iterator[Session]:
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
        truncate_log(self._sessions)

"""Reading and writing the registry's database: one write at a time, and with room kept for deletions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from manyhats.errors import StorageFull
from manyhats.registry.database import connect, give_room, write_failed
from manyhats.registry.reserve import Reserve

T = TypeVar("T")


class Transactions:
    """The database in a folder, and the room that is kept beside it. `lock`: held by whoever writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "registry.sqlite3"
        self._reserve = Reserve(folder / "reserve")
        self._sessions: sessionmaker[Session]
        self.lock = threading.RLock()

    def open(self, *, make: bool) -> None:
        """Opens the database, or makes one where `make` allows it. Raises what `connect` raises."""
        try:
            self._sessions = connect(self._path, make=make)
        except OperationalError:  # perhaps for want of room: reading needs a little, too
            self._reserve.spend()
            self._sessions = connect(self._path, make=make)
        self._reserve.fill()

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

    def free(self, delete: Callable[[], T]) -> T:
        """Deletes something, in a write of its own; on a full disk, with the room that is kept for it."""
        try:
            return delete()
        except StorageFull:
            self._reserve.spend()
            self.shorten()
            try:
                return delete()
            finally:
                self.shorten()  # what the deletion wrote is the room to be kept again
        finally:
            self._reserve.fill()

    def shorten(self) -> None:
        """Gives the disk back what the log of writes takes, as far as it can be."""
        give_room(self._sessions)

"""What the registry needs of a database, whichever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy.orm import Session

from manyhats.errors import ConfigurationError

T = TypeVar("T")

# Brings what other servers have changed into memory: the names of tasks, or None for all, read in the session.
BringIn = Callable[[Session, Collection[str] | None], None]


@dataclass(frozen=True, slots=True)
class StoreState:
    """How a database is seen from this server. `problem`: why it cannot be reached; empty where it can.

    `followed`: changes of other servers that were brought in so far.
    """

    kind: str
    problem: str = ""
    followed: int = 0


def not_made(make: bool | None, lost: str) -> ConfigurationError:
    """The error where there is no database, and none may be made: `lost` where there are adapters that it would not
    know; None: where that is not known. See `MetadataStore.open`."""
    if make is None:
        return ConfigurationError(
            "there is no database yet, and none is made while the object store does not answer, as it may have another "
            "database's adapters: start again when it does"
        )
    return ConfigurationError(lost)


class MetadataStore(Protocol):
    """The database of a registry. Safe from any thread.

    `lock` is held by whoever writes in this process, until memory has what was written. `shared`: whether other servers
    may write, too. `server`: whose folder imports are this server's.
    """

    lock: threading.RLock
    shared: bool
    server: str

    @property
    def state(self) -> StoreState:
        """How it is now."""

    def open(self, *, make: bool | None) -> None:
        """Opens the database, or makes its tables where there are none and `make` allows it; None: where it is not
        known whether there are adapters that a new one would not know.

        Raises ConfigurationError for one that is lost, damaged, out of reach or of another schema; it is left as it is.
        """

    def close(self) -> None:
        """Closes the database."""

    def opening(self) -> AbstractContextManager[Session]:
        """A session to read everything in at the start, while no other server writes."""

    def follow(self, bring_in: BringIn, tell: Callable[[], None]) -> None:
        """From now on brings in what other servers change: `bring_in` while `lock` is held, then `tell` without it."""

    def read(self) -> AbstractContextManager[Session]:
        """A session to read in. Raises NotReady where the database cannot be reached."""

    def write(self, task: str | None = None) -> AbstractContextManager[Session]:
        """A session to write and commit in, one at a time among all servers; memory has all that was written before.

        `task`: whose rows are changed, which the other servers are told of. Raises StorageFull, NotReady or
        DamagedStore for a failed write.
        """

    def delete(self, delete: Callable[[], T]) -> T:
        """Runs a deletion, which writes by itself; on a full disk, with space that is reserved for it."""

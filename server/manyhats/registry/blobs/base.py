"""What the registry needs of the place where adapters' files are, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class DamagedBlob(Exception):
    """What is stored is not what was put there, or is gone. The reason, in words that follow "are damaged: "."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an upload or a deletion has left that never ended. `name`: for messages; `modified`: unix seconds."""

    name: str
    modified: float


class Blobs(Protocol):
    """The files of adapters, named by the sha256 of their content. Safe from any thread.

    `shared`: other servers may use the same files, so that what a server no longer needs is only marked, and removed
    after a time of grace. `in_use`: contents that are needed now, whatever else becomes of them. What asks a store on
    another machine raises StoreUnavailable where that does not answer in time.
    """

    shared: bool
    in_use: Callable[[], Collection[str]]

    def open(self) -> None:
        """Makes what is missing. Raises ConfigurationError where the place cannot be used at all."""

    def close(self) -> None:
        """Ends its threads."""

    def stage(self) -> AbstractContextManager[Path]:
        """An empty folder for files on their way, removed at the end. Raises StorageFull where the disk is full."""

    # ---- reading

    def empty(self) -> bool | None:
        """Whether there is no content; None where that cannot be known now."""

    def missing(self, contents: set[str]) -> set[str]:
        """Those of the contents that are not there at all, as far as that can be known now."""

    def path(self, sha256: str) -> Path:
        """The folder where the files of a content are on this machine, if they are."""

    def fetch(self, contents: Iterable[str], then: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Has the contents on this machine, and then calls `then`: at once where they are here.

        Else, without waiting for it, from another thread, or there `failed` with what went wrong.
        """

    def reading(self, sha256: str) -> AbstractContextManager[Path]:
        """The folder of a content, brought to this machine, which stays there meanwhile. Raises DamagedBlob."""

    def fault(self, sha256: str) -> str | None:
        """Why a content's files are not those that were kept, read anew; None where they are."""

    def signature(self, sha256: str) -> object:
        """What changes with a content's files, without reading them; None where there are none."""

    def is_damaged(self, sha256: str) -> bool:
        """Whether there is a content of that name that `keep` has to replace."""

    # ---- writing

    def put(self, folder: Path, sha256: str) -> None:
        """Brings staged files, whose digest is `sha256`, to where they will be, as far as that takes its time."""

    def keep(self, folder: Path, sha256: str, *, replace: bool = False) -> None:
        """Puts a staged folder, whose digest is `sha256`, into place, after `put`. The files are durable then.

        `replace`: what is there is damaged. The database's write lock is held.
        """

    def remove(self, sha256: str) -> None:
        """Nobody needs a content any more: it goes, or where it is shared, is marked. Never waits for a network."""

    def clean(self, known: set[str]) -> None:
        """Removes what a killed process left here: staged files, and, where nothing is shared, what is not `known`."""

    def claim(self, owner: str) -> None:
        """Says whose contents these are, by the id of the database. Raises ConfigurationError for another's."""

    def owner(self) -> str | None:
        """The id of the database whose contents these are; None where none has claimed them."""

    # ---- collecting what is not needed (see collect)

    def stored(self) -> dict[str, float]:
        """When each content was last put, in unix seconds."""

    def marks(self) -> dict[str, float]:
        """Since when each content is marked as not needed, in unix seconds."""

    def mark(self, sha256: str) -> None:
        """Marks a content as not needed from now on."""

    def unmark(self, contents: Collection[str]) -> None:
        """Takes marks away."""

    def delete(self, sha256: str, before: float) -> bool:
        """Deletes a content that was not put again since `before`. The database's write lock is held."""

    def cached(self) -> set[str]:
        """The contents of which there is a copy here, beside those in their place."""

    def forget(self, sha256: str) -> None:
        """Removes that copy."""

    def leftovers(self) -> list[Leftover]:
        """What uploads have left."""

    def delete_leftover(self, leftover: Leftover) -> None:
        """Removes it."""

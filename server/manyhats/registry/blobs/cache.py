"""Contents of an object store in folders here, bounded in bytes; those that were not used for longest go first."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from manyhats.errors import StoreUnavailable, TooLarge


class BlobCache:
    """Folders named by their content. Safe from any thread.

    `limit`: bytes of all files, those included that are being fetched. `in_use`: contents that stay whatever happens,
    as do those that are being read. `aside`: a folder of the same disk that what goes is first moved to.
    """

    def __init__(self, folder: Path, limit: int, aside: Path) -> None:
        self.limit = limit
        self.in_use: Callable[[], Collection[str]] = tuple
        self.evictions = 0
        self._folder = folder
        self._aside = aside
        self._lock = threading.Lock()  # guards what follows
        self._sizes: OrderedDict[str, int] = OrderedDict()  # bytes, those used last at the end
        self._readers: Counter[str] = Counter()
        self._reserved = 0

    @property
    def used(self) -> int:
        """Bytes of what is there, and of what is on its way."""
        with self._lock:
            return self._used()

    def open(self) -> None:
        """Finds what an earlier process left, in the order of its last use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._aside.mkdir(parents=True, exist_ok=True)
        found = sorted((path.stat().st_mtime, path) for path in self._folder.iterdir())
        with self._lock:
            self._sizes = OrderedDict((path.name, _bytes(path)) for _, path in found)
            gone = self._make_room(0)
        _delete(gone)

    def path(self, sha256: str) -> Path:
        """Where a content is, if it is here."""
        return self._folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether a content is here."""
        with self._lock:
            return sha256 in self._sizes

    def contents(self) -> set[str]:
        """What is here."""
        with self._lock:
            return set(self._sizes)

    def on_disk(self) -> set[str]:
        """What has a folder here, whoever brought it."""
        return {path.name for path in self._folder.iterdir()} if self._folder.exists() else set()

    @contextmanager
    def reading(self, sha256: str) -> Iterator[Path]:
        """The folder of a content, which stays meanwhile if it is here; it counts as used now."""
        with self._lock:
            self._readers[sha256] += 1
            if sha256 in self._sizes:
                self._sizes.move_to_end(sha256)
                os.utime(self.path(sha256))
        try:
            yield self.path(sha256)
        finally:
            with self._lock:
                self._readers[sha256] -= 1
                if not self._readers[sha256]:
                    del self._readers[sha256]
                gone = self._make_room(0)
            _delete(gone)

    def check_fits(self, size: int) -> None:
        """Raises TooLarge for what the cache could never hold."""
        if size > self.limit:
            raise TooLarge(
                f"the adapter's files have {size} bytes, and blob_cache has room for {self.limit}; make it larger"
            )

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Room for one content that is being fetched, asked for by its bytes.

        Asking raises TooLarge where the cache is smaller, and StoreUnavailable where too much of it is in use.
        """
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            self.check_fits(size)
            with self._lock:
                gone = self._make_room(size)
                if full := self._used() + size > self.limit:
                    used = self._used()
                else:
                    self._reserved += size
                    reserved += size
            _delete(gone)
            if full:
                raise StoreUnavailable(
                    f"blob_cache has no room: {used} of its {self.limit} bytes are in use; try again, or make it larger"
                )

        try:
            yield reserve
        finally:
            with self._lock:
                self._reserved -= reserved

    def add(self, sha256: str, folder: Path, reserved: int = 0) -> None:
        """Takes over a folder with a content's files, if there is room for it; what was here under its name goes.

        `reserved`: bytes of the room that was asked for it, which is given back by who asked.
        """
        size = _bytes(folder)
        with self._lock:
            more = size - self._sizes.get(sha256, 0) - reserved
            gone = self._make_room(more)
            if self._used() + more <= self.limit:
                gone += self._take_out(sha256)
                folder.rename(self.path(sha256))
                self._sizes[sha256] = size
                os.utime(self.path(sha256))
        _delete(gone)

    def drop(self, sha256: str) -> None:
        """Removes a content. Who reads it goes on with the files that are open."""
        with self._lock:
            gone = self._take_out(sha256)
        _delete(gone)

    def _used(self) -> int:
        return sum(self._sizes.values()) + self._reserved

    def _make_room(self, size: int) -> list[Path]:
        """Takes out what was not used for longest, until there is room. Returns what to delete. The lock is held."""
        gone: list[Path] = []
        excess = self._used() + size - self.limit
        if excess <= 0:
            return gone
        kept = {*self.in_use(), *self._readers}
        for sha in [sha for sha in self._sizes if sha not in kept]:
            if excess <= 0:
                break
            excess -= self._sizes[sha]
            gone += self._take_out(sha)
            self.evictions += 1
        return gone

    def _take_out(self, sha256: str) -> list[Path]:
        """Moves a content out of the cache; where to, for `_delete`. The lock is held."""
        if self._sizes.pop(sha256, None) is None and not self.path(sha256).exists():
            return []
        aside = self._aside / uuid.uuid4().hex
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:  # somebody else has removed it
            return []
        return [aside]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _delete(folders: Collection[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

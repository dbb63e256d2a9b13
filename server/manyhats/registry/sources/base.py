"""What every source is: a list of files with their sizes, and the bytes of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from manyhats.errors import DeadlineExceeded
from manyhats.registry.origin import Origin

MAX_ENTRIES = 10_000  # files that a source may list, most of them left out


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a source lists. `name`: with `/` between folders. `size`: bytes. `sha256`, `git_sha1`: of its
    content, by git's way of hashing for the second, where the source says so. `etag`: changes with the content."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds now. `origin`: without files."""

    origin: Origin
    files: tuple[RemoteFile, ...]


class Deadline:
    """Until when a fetch may take, and whether anybody still waits for it. Shared between threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Nobody waits any more: the next `check` raises."""
        self._stopped.set()

    def left(self) -> float:
        """Seconds; above 0. Raises DeadlineExceeded where the time is over, or the fetch was stopped."""
        left = self._end - time.monotonic()
        if self._stopped.is_set():
            raise DeadlineExceeded("nobody waits for the source's files any more", param="source")
        if left <= 0:
            raise DeadlineExceeded(
                f"the source did not send its files within {self._seconds:g} s (source_timeout)", param="source"
            )
        return left

    def check(self) -> None:
        """Raises what `left` raises."""
        self.left()


class Source(Protocol):
    """One place with an adapter's files. Blocking; used by one thread, for one fetch."""

    def list(self, deadline: Deadline) -> Listing:
        """What there is. Raises NotFound, PermissionDenied, TooLarge, Overloaded, SourceFailed, DeadlineExceeded."""
        ...

    def open(self, file: RemoteFile, deadline: Deadline) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a file that `list` gave, as they come, however many. Raises what `list` raises."""
        ...

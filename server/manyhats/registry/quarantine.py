"""Stored contents that are not what was stored: found when they are read, never used, restored by the right bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from manyhats.errors import DamagedStore, NotFound
from manyhats.registry.blobs.base import Blobs, DamagedBlob
from manyhats.registry.index import AdapterIndex
from manyhats.registry.loading_threads import LoadingThreads
from manyhats.registry.records import Version

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Quarantine:
    """Checks contents by their digest, and knows those that did not pass. Safe from any thread."""

    def __init__(self, blobs: Blobs, index: AdapterIndex) -> None:
        self._blobs = blobs
        self._index = index
        self._lock = threading.Lock()
        self._damaged: dict[str, tuple[str, object]] = {}  # why, and the files' signature, by sha256
        self._threads = ThreadPoolExecutor(LoadingThreads.count, thread_name_prefix="digest")

    def close(self) -> None:
        """Ends its threads."""
        self._threads.shutdown()

    def check(self, sha256: str) -> Path:
        """The folder of a content whose bytes are those that were stored.

        Raises DamagedStore where they are not, and NotFound where the content was deleted meanwhile. All files are
        read, but for those of a content that failed before and have the same signature as then.
        """
        now = self._blobs.signature(sha256)
        with self._lock:
            reason, before = self._damaged.get(sha256, (None, None))
        if reason is None or before != now:
            reason = self._blobs.fault(sha256)
            if reason is None:
                self.lift(sha256)
            else:
                self._add(sha256, reason, now)
        if reason is not None:
            raise DamagedStore(f"the stored files of {self._named(sha256)} are damaged: {reason}", param=sha256)
        return self._blobs.path(sha256)

    def read(self, sha256: str, read: Callable[[Path], T]) -> T:
        """What `read` makes of the folder of a content, whose bytes another thread checks meanwhile, as `check` does.

        Raises what `check` raises, and where the bytes are those that were stored, what `read` raises.
        """
        with self._lock:
            damaged = sha256 in self._damaged
        if not damaged:
            with suppress(DamagedBlob), self._blobs.reading(sha256) as folder:
                before = self._blobs.signature(sha256)
                checked = self._threads.submit(self.check, sha256)
                made, failure = _attempted(read, folder)
                checked.result()
                if self._blobs.signature(sha256) == before:
                    if failure is not None:
                        raise failure
                    return cast("T", made)
        return read(self.check(sha256))  # also where the files were replaced meanwhile: which were read is not known

    def check_present(self, contents: Iterable[str]) -> None:
        """Adds those of the contents that have no files at all."""
        for sha in self._blobs.missing(set(contents)):
            if (reason := self._blobs.fault(sha)) is not None:
                self._add(sha, reason, self._blobs.signature(sha))

    def is_damaged(self, sha256: str) -> bool:
        """Whether there is a content of that digest, and not with its bytes."""
        return self._blobs.is_damaged(sha256)

    def of(self, version: Version) -> str | None:
        """Why a version's files, or those of what it is made of, are not used; None where they are."""
        with self._lock:
            if not self._damaged:
                return None
            for sha in (version.sha256, *version.info.references):
                if sha in self._damaged:
                    reason = self._damaged[sha][0]
                    return reason if sha == version.sha256 else f"its member {sha}: {reason}"
        return None

    def versions(self) -> list[Version]:
        """All versions of which `of` gives a reason."""
        with self._lock:
            damaged = list(self._damaged)
        found = {version.ref: version for sha in damaged for version in self._index.needing(sha)}
        return [found[ref] for ref in sorted(found)]

    def lift(self, sha256: str) -> None:
        """The content has its bytes again, or is no longer needed."""
        with self._lock:
            lifted = self._damaged.pop(sha256, None)
        if lifted is not None and (name := self._named(sha256)):
            logger.warning("the stored files of %s are whole again", name)

    def _named(self, sha256: str) -> str:
        """The versions that need a content, for a message; empty where nobody does."""
        if not self._index.is_needed(sha256):
            return ""
        names = [version.ref for version in self._index.needing(sha256)] or ["a deleted version"]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def _add(self, sha256: str, reason: str, signature: object) -> None:
        name = self._named(sha256)
        if not name:
            raise NotFound(f"the content {sha256[:12]} was deleted meanwhile", param=sha256)
        with self._lock:
            self._damaged[sha256] = reason, signature
        logger.error(
            "the stored files of %s (%s) are damaged, and not used: %s; upload the same files again to restore them",
            name,
            sha256,
            reason,
        )


def _attempted(read: Callable[[Path], T], folder: Path) -> tuple[T | None, Exception | None]:
    """What a reader made of a folder, or what it raised."""
    try:
        return read(folder), None
    except Exception as error:
        return None, error

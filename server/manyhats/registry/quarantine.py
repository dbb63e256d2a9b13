"""Stored contents that are not what was stored: found when they are read, never used, healed by the right bytes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from manyhats.errors import DamagedStore, NotFound
from manyhats.registry.blobs import Blobs

logger = logging.getLogger(__name__)


class Quarantine:
    """Checks contents by their digest, and knows those that did not pass. Safe from any thread.

    `named`: what a content is called in messages; empty where nobody needs it any more.
    """

    def __init__(self, blobs: Blobs, named: Callable[[str], str]) -> None:
        self._blobs = blobs
        self._named = named
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, object]] = {}  # why, and how the files looked, by sha256

    def check(self, sha256: str) -> Path:
        """The folder of a content whose bytes are those that were stored.

        Raises DamagedStore where they are not, and NotFound where the content was deleted meanwhile. All files are
        read, but for those of a content that failed before and looks as it did then.
        """
        looks = self._blobs.looks(sha256)
        with self._lock:
            reason, before = self._held.get(sha256, (None, None))
        if reason is None or before != looks:
            reason = self._blobs.fault(sha256)
            if reason is None:
                self.lift(sha256)
            else:
                self._hold(sha256, reason, looks)
        if reason is not None:
            raise DamagedStore(f"the stored files of {self._named(sha256)} are damaged: {reason}", param=sha256)
        return self._blobs.path(sha256)

    def check_present(self, contents: Iterable[str]) -> None:
        """Holds those of the contents that have no files at all."""
        for sha in set(contents) - self._blobs.present():
            self._hold(sha, self._blobs.fault(sha) or "", self._blobs.looks(sha))

    def damaged(self, sha256: str) -> bool:
        """Whether there is a content of that digest, and not with its bytes."""
        return os.path.lexists(self._blobs.path(sha256)) and self._blobs.fault(sha256) is not None

    def reason(self, sha256: str) -> str | None:
        """Why a content is held; None for one that is not."""
        with self._lock:
            return self._held.get(sha256, (None, None))[0]

    def held(self) -> list[str]:
        """The sha256 of all that are held."""
        with self._lock:
            return list(self._held)

    def lift(self, sha256: str) -> None:
        """The content has its bytes again, or is no longer needed."""
        with self._lock:
            gone = self._held.pop(sha256, None)
        if gone is not None and (name := self._named(sha256)):
            logger.warning("the stored files of %s are whole again", name)

    def _hold(self, sha256: str, reason: str, looks: object) -> None:
        name = self._named(sha256)
        if not name:
            raise NotFound(f"the content {sha256[:12]} was deleted meanwhile", param=sha256)
        with self._lock:
            self._held[sha256] = reason, looks
        logger.error(
            "the stored files of %s (%s) are damaged, and not used: %s; upload the same files again to heal them",
            name,
            sha256,
            reason,
        )

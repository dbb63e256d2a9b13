"""Disk space that is reserved for deletions: the database has to write to delete, also on a full disk."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

_MAX_SIZE = 4 << 20  # bytes
_USUAL_MIN_SIZE = 256 << 10  # a start takes 32 KiB, a deletion's write-ahead log some 4 KiB for every changed page
_MIN_SIZE = 64 << 10
_SHARE = 16  # one part in so many of the free space


class Reserve:
    """A file that is nothing but its size. It is removed for a deletion, and made again from the freed space."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Makes the file, where it is not there, as large as the disk allows."""
        try:
            if self._path.exists():
                return
            size = min(max(shutil.disk_usage(self._path.parent).free // _SHARE, _USUAL_MIN_SIZE), _MAX_SIZE)
            while size >= _MIN_SIZE and not self._write(size):
                size //= 2
        except OSError as error:
            logger.debug("no disk space can be reserved for deletions: %s", error)

    def _write(self, size: int) -> bool:
        """Whether the disk had so many bytes."""
        try:
            with self._path.open("xb") as out:
                out.write(bytes(size))  # a file with holes would reserve nothing
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> None:
        """Frees the space."""
        self._path.unlink(missing_ok=True)

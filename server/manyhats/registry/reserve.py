"""Room that is kept on the store's disk for deletions: the database has to write to delete, also on a full disk."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

_MOST = 4 << 20  # bytes
_USUAL_LEAST = 256 << 10  # a start takes 32 KiB, a deletion's log of writes some 4 KiB for every page that it changes
_LEAST = 64 << 10
_PART = 16  # of the room that is left


class Reserve:
    """A file that is nothing but its size. It is given up for a deletion, and made again when that has made room."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Makes the file, where it is not there: as large as there is room for."""
        try:
            if self._path.exists():
                return
            size = min(max(shutil.disk_usage(self._path.parent).free // _PART, _USUAL_LEAST), _MOST)
            while size >= _LEAST and not self._write(size):
                size //= 2
        except OSError as error:
            logger.debug("there is no room to keep for deletions: %s", error)

    def _write(self, size: int) -> bool:
        """Whether there was room for so many bytes."""
        try:
            with self._path.open("xb") as out:
                out.write(bytes(size))  # a file with holes would hold no room
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True

    def spend(self) -> None:
        """Gives the room up."""
        self._path.unlink(missing_ok=True)

"""How much of the device's memory adapters may take."""

from __future__ import annotations

import sys
import threading


class MemoryBudget:
    """Bytes that are reserved until none are left. Safe from any thread."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that are reserved."""
        return self._used

    def fits(self, size: int) -> bool:
        """Whether so many bytes are left."""
        return self._used + size <= self.limit

    def reserve(self, size: int) -> bool:
        """Reserves so many bytes; False, and none, where they are not left."""
        with self._lock:
            if not self.fits(size):
                return False
            self._used += size
            return True

    def add(self, size: int) -> None:
        """Counts bytes that are in use already, though they may be more than are left."""
        with self._lock:
            self._used += size

    def free(self, size: int) -> None:
        """Gives back bytes that were reserved or added."""
        with self._lock:
            self._used -= size

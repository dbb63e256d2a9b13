"""How much of the device's memory adapters may take."""

from __future__ import annotations

import sys
import threading


class MemoryBudget:
    """Bytes that are given out until there are none left. Safe from any thread."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that are given out."""
        return self._used

    def fits(self, size: int) -> bool:
        """Whether so many bytes are left."""
        return self._used + size <= self.limit

    def take(self, size: int) -> bool:
        """Gives out so many bytes; False, and none, where they are not left."""
        with self._lock:
            if not self.fits(size):
                return False
            self._used += size
            return True

    def add(self, size: int) -> None:
        """Counts bytes that are in use already, though they may be more than are left."""
        with self._lock:
            self._used += size

    def give_back(self, size: int) -> None:
        """Takes bytes back that were given out."""
        with self._lock:
            self._used -= size

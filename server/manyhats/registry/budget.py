"""How much of the device's memory adapters may take."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


class MemoryBudget:
    """Bytes that are reserved until none are left. Safe from any thread.

    `total`: of the device's memory; `beside`: how many of them something else takes now, which may grow.
    """

    def __init__(self, total: int = sys.maxsize, beside: Callable[[], int] = lambda: 0) -> None:
        self.total = total
        self._beside = beside
        self._lock = threading.Lock()
        self._used = 0

    @property
    def limit(self) -> int:
        """The most bytes that may be reserved, as far as is known now."""
        return max(self.total - self._beside(), 0)

    @property
    def in_use(self) -> int:
        """Bytes that are reserved, and those that something else takes."""
        return self._used + self._beside()

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
        """Counts bytes that are in use already, though they may be more than are left. Below 0: so many fewer are."""
        with self._lock:
            self._used += size

    def free(self, size: int) -> None:
        """Gives back bytes that were reserved or added."""
        with self._lock:
            self._used -= size

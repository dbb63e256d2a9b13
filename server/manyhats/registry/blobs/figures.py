"""What is counted of an object store and its local cache."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal, get_args

Operation = Literal["get", "put", "head", "list", "delete"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # seconds of a fetch, at most


class BlobFigures:
    """Counts since the start. Safe from any thread.

    `retries`, `errors`: by operation, what was asked once more, and what was given up. `requests`: how contents were
    found in the cache: hit, miss, damaged. `fetched`: bytes. `seconds`: of fetches, how many in each of BUCKETS and
    beyond; `total_seconds` their sum.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.retries: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.fetched = 0
        self.seconds = [0] * (len(BUCKETS) + 1)
        self.total_seconds = 0.0

    def count(self, counter: Counter[str], name: str) -> None:
        """One more."""
        with self._lock:
            counter[name] += 1

    def fetch(self, size: int, seconds: float) -> None:
        """A content of so many bytes was fetched."""
        with self._lock:
            self.fetched += size
            self.total_seconds += seconds
            self.seconds[next((i for i, most in enumerate(BUCKETS) if seconds <= most), len(BUCKETS))] += 1

"""The threads that load adapters and bind them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar


class LoadingThreads:
    """Threads that do what was given to `first` before all that was given to `then`, each in its order.

    What is first binds adapters, which lets go of the files they were read from. With one order for both, all that
    wait to be loaded would be read before any of them is bound.
    """

    count: ClassVar = 2

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="load")
        self._lock = threading.Lock()
        self._first: deque[Callable[[], None]] = deque()
        self._then: deque[Callable[[], None]] = deque()

    def first(self, work: Callable[[], None]) -> None:
        """Has a thread do this as soon as one is free."""
        self._add(self._first, work)

    def then(self, work: Callable[[], None]) -> None:
        """Has a thread do this when nothing else is to be done first."""
        self._add(self._then, work)

    def close(self) -> None:
        """Waits for what is under way, and leaves out what has not begun."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _add(self, line: deque[Callable[[], None]], work: Callable[[], None]) -> None:
        with self._lock:
            line.append(work)
        self._threads.submit(self._next)

    def _next(self) -> None:
        with self._lock:
            work = (self._first or self._then).popleft()
        work()

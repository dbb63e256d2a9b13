"""The threads that load adapters and bind them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

logger = logging.getLogger(__name__)

Failed = Callable[[BaseException], object]


@dataclass(frozen=True, slots=True)
class _Work:
    """`failed` is called with what `do` raises, or with what ended the thread that did it."""

    do: Callable[[], None]
    failed: Failed


class LoadingThreads:
    """Threads that do what was given to `first` before all that was given to `then`, each in its order.

    What is first binds adapters, which lets go of the files they were read from. With one order for both, all that
    wait to be loaded would be read before any of them is bound.

    A thread begins nothing while another has been at something for less than `help_after` seconds: loading small
    adapters is Python's and torch's work, at which two threads hinder each other, and take longer than one. A large
    adapter, or a slow disk, does not hold up the others.
    """

    count: ClassVar = 2
    help_after: ClassVar = 0.05

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._first: deque[_Work] = deque()
        self._then: deque[_Work] = deque()
        self._closing = False
        self._threads: list[threading.Thread] = []  # started with the first work
        self._running: dict[threading.Thread, tuple[float, _Work]] = {}  # since when each does what

    def first(self, work: Callable[[], None], failed: Failed = lambda error: None) -> None:
        """Has a thread do this as soon as one is free."""
        self._add(self._first, _Work(work, failed))

    def then(self, work: Callable[[], None], failed: Failed = lambda error: None) -> None:
        """Has a thread do this when nothing else is to be done first."""
        self._add(self._then, _Work(work, failed))

    def close(self) -> None:
        """Waits for what is under way, and leaves out what has not begun."""
        with self._condition:
            self._closing = True
            self._first.clear()
            self._then.clear()
            self._condition.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    # ---- for the watchdog

    @property
    def alive(self) -> bool:
        """Whether no thread has died."""
        return self._closing or all(thread.is_alive() for thread in self._threads)

    @property
    def busy_since(self) -> float | None:
        """When the work that is under way longest was begun, by `time.monotonic()`; None where there is none."""
        with self._condition:
            return min((since for since, _ in self._running.values()), default=None)

    def revive(self) -> None:
        """Starts a thread for each that has died, whose work has failed."""
        with self._condition:
            if self._closing:
                return
            dead = [thread for thread in self._threads if not thread.is_alive()]
            lost = [self._running.pop(thread)[1] for thread in dead if thread in self._running]
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._start()
        for work in lost:
            work.failed(RuntimeError("a loading thread has died"))

    # ---- the threads

    def _add(self, line: deque[_Work], work: _Work) -> None:
        with self._condition:
            if self._closing:
                raise RuntimeError("the loading threads have ended")
            line.append(work)
            if not self._threads:
                self._start()
            self._condition.notify()

    def _start(self) -> None:
        """Starts those that are missing. The lock is held."""
        while len(self._threads) < self.count:
            thread = threading.Thread(target=self._loop, name=f"load_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _loop(self) -> None:
        own = threading.current_thread()
        while (work := self._next(own)) is not None:
            try:
                work.do()
            except BaseException as error:
                logger.exception("a loading thread failed")
                work.failed(error)
            with self._condition:
                self._running.pop(own, None)
            del work  # it has adapters, which should go now and not with the next work

    def _next(self, own: threading.Thread) -> _Work | None:
        with self._condition:
            while not self._closing:
                waiting = self._first or self._then
                patience = self._patience() if waiting else None
                if waiting and not patience:
                    work = waiting.popleft()
                    self._running[own] = time.monotonic(), work
                    return work
                self._condition.wait(patience)
            return None

    def _patience(self) -> float:
        """For how many seconds what is under way may go on alone. The lock is held."""
        begun = max((since for since, _ in self._running.values()), default=None)
        return 0.0 if begun is None else max(begun + self.help_after - time.monotonic(), 0.0)

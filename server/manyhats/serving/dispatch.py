"""Brings to the event loop what other threads have for it: all of a step by one wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, ParamSpec

P = ParamSpec("P")


class Dispatcher:
    """Calls from any thread, run in order on the event loop of those who wait.

    A wake-up costs both sides a system call, and the thread that wakes the loop may lose the interpreter to it. What a
    thread posts within `one_wake_up` therefore waits for its end; and nobody wakes a loop that has been woken and has
    not looked yet. The queue holds what streams and waiting requests have been promised: a call for each token that a
    request may have, and one for its end.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False
        self._thread = threading.local()
        self.wake_ups = 0  # so far

    def attach(self) -> None:
        """Takes the running event loop for its own."""
        self._loop = asyncio.get_running_loop()

    def post(self, call: Callable[P, object], *given: P.args, **named: P.kwargs) -> None:
        """Calls `call` on the event loop, soon. An error in it is that loop's to log."""

        def run() -> None:
            call(*given, **named)

        with self._lock:
            self._calls.append(run)
        if not getattr(self._thread, "held", False):
            self._wake()

    @contextmanager
    def one_wake_up(self) -> Iterator[None]:
        """What this thread posts inside reaches the event loop together, at the end."""
        if getattr(self._thread, "held", False):  # an outer one does it
            yield
            return
        self._thread.held = True
        try:
            yield
        finally:
            self._thread.held = False
            self._wake()

    def end_of(self, future: Future[Any]) -> asyncio.Future[None]:
        """Is done on the event loop once `future` is, whatever came of it."""
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self.post(_finish, end))
        return end

    def _wake(self) -> None:
        with self._lock:
            if self._loop is None or self._loop.is_closed():  # and nobody waits
                self._calls.clear()
            if self._loop is None or self._woken or not self._calls:
                return
            self._woken = True
            self.wake_ups += 1
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # the loop was closed just now, and with it all who waited
            with self._lock:
                self._woken = False
                self._calls.clear()

    def _run(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._woken = False
        assert self._loop is not None
        for call in calls:
            try:
                call()
            except Exception as error:
                self._loop.call_exception_handler({"message": "a call from another thread failed", "exception": error})


def _finish(end: asyncio.Future[None]) -> None:
    if not end.done():  # who waited may have given up
        end.set_result(None)

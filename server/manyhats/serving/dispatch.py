"""Runs calls from other threads on the event loop, all of a step with one wake-up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ParamSpec

P = ParamSpec("P")

_OVERDUE_SECONDS = 0.2  # after which the event loop is asked whether a wake-up was lost


class Dispatcher:
    """Runs calls from any thread in order on the event loop.

    A wake-up costs both sides a system call, and the thread that wakes the loop may lose the interpreter's lock to it.
    So calls that a thread posts within `one_wake_up` wait for its end, and a loop that has been woken is not woken
    again before it has run. The queue is bounded by the open requests: a call for each token, and one for the end.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        self.busy_since: float | None = None  # when the loop was woken for calls that it has not begun
        self._probed: float | None = None  # the wake-up that the loop was asked about
        self._lost: float | None = None  # the wake-up that never came
        self._thread = threading.local()
        self.wake_ups = 0  # so far

    def attach(self) -> None:
        """Uses the running event loop."""
        self._loop = asyncio.get_running_loop()

    def post(self, call: Callable[P, object], *given: P.args, **named: P.kwargs) -> None:
        """Schedules `call` on the event loop, which logs its errors."""
        self._calls.append(partial(call, *given, **named))
        if not getattr(self._thread, "held", False):
            self._wake()

    @contextmanager
    def one_wake_up(self) -> Iterator[None]:
        """What this thread posts inside reaches the event loop together, at the end."""
        if getattr(self._thread, "held", False):  # within an outer one
            yield
            return
        ended: list[asyncio.Future[None]] = []
        self._thread.held, self._thread.ended = True, ended
        try:
            yield
        finally:
            self._thread.held = False
            if ended:
                self._calls.append(partial(_finish, ended))
            self._wake()

    def end_of(self, future: Future[Any], end: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """`end`, or a new future of the event loop, which is done when `future` is done, failed or cancelled."""
        if end is None:
            end = asyncio.get_running_loop().create_future()
        future.add_done_callback(partial(self._ended, end))
        return end

    def _ended(self, end: asyncio.Future[None], _: Future[Any]) -> None:
        if getattr(self._thread, "held", False):  # all of them with one call, after what was posted meanwhile
            self._thread.ended.append(end)
        else:
            self.post(_finish, [end])

    def _wake(self) -> None:
        with self._lock:
            if self._loop is None or self._loop.is_closed():  # nobody is waiting
                self._calls.clear()
            if self._loop is None or self._woken or not self._calls:
                return
            self._woken = True
            self.busy_since = time.monotonic()
            self.wake_ups += 1
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # the loop has just been closed
            with self._lock:
                self._woken = False
                self.busy_since = None
                self._calls.clear()

    # ---- for the watchdog

    @property
    def alive(self) -> bool:
        """Whether calls reach the event loop: no wake-up was lost. A loop that is only slow is alive."""
        since, loop = self.busy_since, self._loop
        overdue = since is not None and time.monotonic() - since > _OVERDUE_SECONDS
        if overdue and since != self._probed and loop is not None:
            self._probed = since
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(self._probe, since)
        return self._lost is None or self._lost != since

    def _probe(self, since: float | None) -> None:
        """On the event loop, which does in order what it is given: what it was woken for before should have begun."""
        if self.busy_since == since:
            self._lost = since

    def revive(self) -> None:
        """Wakes the event loop again."""
        if not self.alive and self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            self._woken = False
            self.busy_since = None
        assert self._loop is not None
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:
                self._loop.call_exception_handler({"message": "a call from another thread failed", "exception": error})


def _finish(ended: Iterable[asyncio.Future[None]]) -> None:
    for end in ended:
        if not end.done():  # the waiter may have been cancelled
            end.set_result(None)

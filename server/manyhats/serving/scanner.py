"""Looks again and again for adapter folders that somebody copied into the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from anyio import to_thread

from manyhats.registry.imports import FolderImports

logger = logging.getLogger(__name__)

_REST = 9  # times as long as a scan took, until the next one: among very many folders it takes a tenth of the time
_START_SCANS = 50  # for folders that are still being copied, before the start goes on without them
_RETRY = 1.0  # seconds after a scan that failed, where `interval` is longer: the server is not ready meanwhile


class Scanner:
    """Calls `before` every `interval` seconds, and scans, where that does not take most of the time.

    Its methods are called on the event loop, but for what the watchdog asks.
    """

    def __init__(self, imports: FolderImports, interval: float, *, before: Callable[[], object] = lambda: None) -> None:
        self.interval = interval
        self._imports = imports
        self._before = before
        self._failed = ""  # why the last scan failed, as the log says it
        self.failure = ""  # the same without paths, for the watchdog, and whoever asks whether the server is ready
        self._due = 0.0  # when the next one may begin, by `time.monotonic()`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.busy_since: float | None = None  # when the running scan began, by `time.monotonic()`

    async def settle(self) -> None:
        """Scans until no folder is being copied, within reason."""
        for _ in range(_START_SCANS):
            self._due = 0.0
            if not await to_thread.run_sync(self.scan):
                break
            await asyncio.sleep(0.2)

    def start(self) -> None:
        """Scans from now on."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Ends after the running scan."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task

    def scan(self) -> bool:
        """Imports folders, in any thread; whether one is still being copied. Raises nothing."""
        self.busy_since = begin = time.monotonic()
        try:
            self._before()
            if begin < self._due:
                return False
            copying = self._imports.scan()[1]
            self._due = rested(begin, time.monotonic())
        except BaseException as error:  # in a pool's thread, whose errors would end the event loop
            if repr(error) != self._failed:  # it scans every second
                logger.exception("the scan for adapters copied into the store failed")
            self._failed, self.failure = repr(error), _public(error)
            self._due = 0.0
            return False
        finally:
            self.busy_since = None
        self._failed = self.failure = ""
        return copying

    # ---- for the watchdog

    @property
    def alive(self) -> bool:
        """Whether it goes on scanning, or is not to."""
        return self._task is None or self._stopping or not self._task.done()

    def revive(self) -> None:
        """Begins anew where it has died."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_anew)

    def _begin_anew(self) -> None:
        if self._task is not None and not self.alive:
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                logger.error("the scan for adapters has ended", exc_info=error)
            self.start()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(min(self.interval, _RETRY) if self.failure else self.interval)
            await to_thread.run_sync(self.scan)


def _public(error: BaseException) -> str:
    """What anybody may read of an error: its type, and the system's words, without the path."""
    words = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def rested(begin: float, end: float) -> float:
    """When the next scan may begin, after one that began and ended then."""
    return end + _REST * (end - begin)

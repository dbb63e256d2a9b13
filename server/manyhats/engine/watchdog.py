"""Notices what has died or hangs: threads, the scan for adapters, calls that never reach the event loop.

What has died is begun anew, with the work that waits for it. A thread that hangs cannot be ended from outside: the
watchdog says so. After a bound, or where a part dies again and again, it asks for the end of the process, which a
supervisor starts again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds between two looks
_MAX_REVIVALS = 10  # of one part within so many seconds, after which it is given up
_REVIVAL_WINDOW = 60.0


@dataclass(frozen=True)
class Part:
    """Something that must not stop. All of it is asked from any thread, and must not block.

    `alive`: whether it can still do its work. `busy_since`: when it began what it is doing, by `time.monotonic()`; None
    where it waits. `revive`: begins it anew, where it is not alive.
    """

    name: str
    alive: Callable[[], bool]
    busy_since: Callable[[], float | None]
    revive: Callable[[], None]


class Watchdog:
    """Looks after some parts, in a thread of its own.

    `stall_timeout`: seconds after which what is busy with one thing counts as hanging; `stall_limit`: seconds after
    which `on_fatal` is called with the reason, once; 0: never. It is called too where a part dies again and again.
    """

    def __init__(self, stall_timeout: float, stall_limit: float) -> None:
        self._stall_timeout = stall_timeout
        self._stall_limit = stall_limit
        self._parts: list[Part] = []
        self._reported: dict[str, str] = {}  # what was said of a part that is not well
        self._stopping = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._revivals: dict[str, deque[float]] = {}  # when each part was begun anew lately
        self.on_fatal: Callable[[str], None] = lambda reason: None
        self.deaths: Counter[str] = Counter()  # noticed so far, by part
        self.stalls: Counter[str] = Counter()

    def add(self, part: Part) -> None:
        """Looks after this part too. Before `start`."""
        self._parts.append(part)

    @property
    def parts(self) -> list[str]:
        """The names of what it looks after."""
        return [part.name for part in self._parts]

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def problem(self) -> str | None:
        """What is wrong now, as a part of a sentence; None where all is well."""
        if self._thread is None or self._stopping.is_set():
            return None
        if not self._thread.is_alive():
            return "the watchdog has died"
        now = time.monotonic()
        return next((wrong for part in self._parts if (wrong := self._wrong(part, now)) is not None), None)

    def is_well(self, name: str) -> bool:
        """Whether nothing is wrong with the part of this name."""
        now = time.monotonic()
        return all(self._wrong(part, now) is None for part in self._parts if part.name == name)

    def _wrong(self, part: Part, now: float) -> str | None:
        if not part.alive():
            return f"{part.name} has died"
        since = part.busy_since()
        if since is not None and now - since > self._stall_timeout:
            return f"{part.name} hangs"
        return None

    # ---- its thread

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL):
            for part in self._parts:
                try:
                    self._look(part)
                except Exception:
                    logger.exception("the watchdog failed on %s", part.name)

    def _look(self, part: Part) -> None:
        wrong = self._wrong(part, time.monotonic())
        if wrong is None:
            if self._reported.pop(part.name, None) is not None:
                logger.warning("%s works again", part.name)
            return
        died = not part.alive()
        if self._reported.get(part.name) != wrong:
            self._reported[part.name] = wrong
            (self.deaths if died else self.stalls)[part.name] += 1
            logger.critical("%s; the server is not ready%s", wrong, ", and begins it anew" if died else "")
        if died:
            self._revive(part)
            return
        since = part.busy_since()
        if self._stall_limit and since is not None:
            seconds = time.monotonic() - since
            if seconds > self._stall_limit:
                self._give_up(f"{part.name} has done one thing for {seconds:.0f} s, and cannot be ended otherwise")

    def _revive(self, part: Part) -> None:
        times = self._revivals.setdefault(part.name, deque(maxlen=_MAX_REVIVALS))
        times.append(time.monotonic())
        if len(times) == _MAX_REVIVALS and times[-1] - times[0] < _REVIVAL_WINDOW:
            self._give_up(f"{part.name} has died {_MAX_REVIVALS} times within {_REVIVAL_WINDOW:g} s")
        part.revive()

    def _give_up(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self.on_fatal(reason)

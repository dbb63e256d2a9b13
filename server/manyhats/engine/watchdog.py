"""Notices what has died, hangs or fails: threads, the scan for adapters, calls that never reach the event loop.

What has died is begun anew, with the work that waits for it. A thread that hangs cannot be ended from outside: the
watchdog says so. After a bound, or where a part dies again and again, it asks for the end of the process, which a
supervisor starts again. What fails and tries again by itself is said as long as it fails; nothing is ended for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds between two looks
_MAX_REVIVALS = 10  # of one part within so many seconds, after which it is given up
_REVIVAL_WINDOW = 60.0


_FOLLOWS = {"died": ", and begins it anew", "hangs": "", "fails": ", until it succeeds"}


@dataclass(frozen=True)
class Part:
    """Something that must not stop. All of it is asked from any thread, and must not block.

    `alive`: whether it can still do its work. `busy_since`: when it began what it is doing, by `time.monotonic()`; None
    where it waits. `revive`: begins it anew, where it is not alive. `failure`: why its last try failed, in words that
    anybody may read; empty where it did not.
    """

    name: str
    alive: Callable[[], bool]
    busy_since: Callable[[], float | None]
    revive: Callable[[], None]
    failure: Callable[[], str] = lambda: ""


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
        self.on_look: Callable[[], None] = lambda: None  # in its thread, at every look
        self.deaths: Counter[str] = Counter()  # noticed so far, by part
        self.stalls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

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
        return next((wrong[1] for part in self._parts if (wrong := _wrong(part, now, self._stall_timeout))), None)

    def is_well(self, name: str) -> bool:
        """Whether nothing is wrong with the part of this name."""
        now = time.monotonic()
        return all(_wrong(part, now, self._stall_timeout) is None for part in self._parts if part.name == name)

    # ---- its thread

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self.on_look()
            for part in self._parts:
                try:
                    self._look(part)
                except Exception:
                    logger.exception("the watchdog failed on %s", part.name)

    def _look(self, part: Part) -> None:
        found = _wrong(part, time.monotonic(), self._stall_timeout)
        if found is None:
            if self._reported.pop(part.name, None) is not None:
                logger.warning("%s works again", part.name)
            return
        state, wrong = found
        if self._reported.get(part.name) != wrong:
            self._reported[part.name] = wrong
            {"died": self.deaths, "hangs": self.stalls, "fails": self.failures}[state][part.name] += 1
            logger.critical("%s; the server is not ready%s", wrong, _FOLLOWS[state])
        if state == "died":
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


def _wrong(part: Part, now: float, stall_timeout: float) -> tuple[Literal["died", "hangs", "fails"], str] | None:
    """What is wrong with a part, with words for it; None where all is well."""
    if not part.alive():
        return "died", f"{part.name} has died"
    since = part.busy_since()
    if since is not None and now - since > stall_timeout:
        return "hangs", f"{part.name} hangs"
    failure = part.failure()
    return ("fails", f"{part.name} fails: {failure}") if failure else None

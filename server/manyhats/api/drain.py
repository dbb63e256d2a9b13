"""How a server leaves: it says that it is not ready, then takes nothing new, then ends.

A load balancer asks for readiness now and then, so for a while requests still come; and it holds connections open, over
which it may send one at the moment in which the server closes it. So in both stages the answers close their
connections, and what is refused is refused with an answer: nothing of it has been done, and another server can do it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from manyhats.errors import NotReady

logger = logging.getLogger(__name__)

# They are answered to the end: whoever asks wants to know just this.
PROBES = frozenset({"/healthz", "/readyz", "/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready"})


class Drain:
    """The stages: `serving`; `leaving`, for `delay` seconds; `refusing`, for `timeout` seconds at most; `over`.

    `on_leave` is called when the first of them ends. `clock` gives the time in seconds.
    """

    def __init__(
        self,
        *,
        delay: float,
        timeout: float,
        on_leave: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.delay = delay
        self.timeout = timeout
        self.on_leave = on_leave
        self.stage: Literal["serving", "leaving", "refusing", "over"] = "serving"
        self._clock = clock
        self._since = 0.0

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection stays open behind its answer."""
        return self.stage == "serving"

    def begin(self) -> None:
        """The server leaves."""
        if self.stage == "serving":
            logger.info("leaving: not ready, and requests are answered for %g s more (drain_delay)", self.delay)
            self._next("leaving")
            self.on_leave()

    def check(self, path: str) -> None:
        """Raises NotReady for a request that comes too late."""
        if self.stage in ("refusing", "over") and path not in PROBES:
            raise NotReady("the server is shutting down; ask another one, or again")

    def advance(self, *, busy: bool) -> bool:
        """Goes on to the next stage in its time. `busy`: whether requests are under way. Returns whether it is over."""
        waited = self._clock() - self._since
        if self.stage == "leaving" and waited >= self.delay:
            logger.info("new requests get 503; those under way have %g s to finish (drain_timeout)", self.timeout)
            self._next("refusing")
        elif self.stage == "refusing" and (not busy or waited >= self.timeout):
            self._next("over")
        return self.stage == "over"

    @property
    def left(self) -> float:
        """Seconds that requests under way still have."""
        return max(self.timeout - (self._clock() - self._since), 0.0) if self.stage == "refusing" else self.timeout

    def _next(self, stage: Literal["leaving", "refusing", "over"]) -> None:
        self.stage = stage
        self._since = self._clock()

"""When a request is tried again, and how long to wait before."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import Self

from manyhats_client.errors import (
    ConnectionFailed,
    ManyhatsError,
    Overloaded,
    ServerNotReady,
    Timeout,
)

_FIRST = 0.5  # seconds
_LONGEST = 8.0  # seconds, of the client's own choice

NOT_YET = (ServerNotReady, ConnectionFailed, Timeout)
"""What `wait_ready` takes for a server that is still starting."""


@dataclass(frozen=True, slots=True)
class Retries:
    """Tries again only what the server cannot have acted on.

    That is a refusal (429, 503) and a connection that was never made. `max_wait`: where the server
    asks for a longer pause than this many seconds, its refusal is raised at once.
    """

    most: int = 2
    max_wait: float = 30.0

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ValueError(f"retries is {self.most}; it is at least 0")

    def with_most(self, most: int | None) -> Self:
        """With another number of retries, where one is given. Raises ValueError for a number below 0."""
        return self if most is None else replace(self, most=most)

    def pause(self, failure: ManyhatsError, tried: int, *, repeatable: bool = False) -> float | None:
        """Seconds to wait after `tried` tries, or None to give up.

        `repeatable`: the request changes nothing, so that one that was sent may be sent again.
        """
        if tried > self.most:
            return None
        retry_after: float | None = None
        match failure:
            case Overloaded(retry_after=retry_after) | ServerNotReady(retry_after=retry_after):
                pass
            case ConnectionFailed() if repeatable or not failure.sent:
                pass
            case _:
                return None
        if retry_after is None:
            return min(_FIRST * 2.0 ** (tried - 1), _LONGEST, self.max_wait) * random.uniform(0.5, 1.0)
        if retry_after > self.max_wait:
            return None
        # A little later than asked, so that not all who got the same answer return together.
        return min(retry_after + random.uniform(0.0, 0.25) * max(retry_after, _FIRST), self.max_wait)


class ReadyWait:
    """Paces `wait_ready`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = 0.05

    @property
    def timeout_of_one(self) -> float:
        """Seconds that one try may take."""
        return min(max(self._deadline - time.monotonic(), 0.1), 5.0)

    def pause(self, failure: ManyhatsError) -> float:
        """Seconds until the next try. Raises Timeout when the time is up."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Timeout(f"not ready within {self._timeout:g} seconds: {failure}") from failure
        self._pause = min(self._pause * 2, 1.0)
        return min(self._pause, left)

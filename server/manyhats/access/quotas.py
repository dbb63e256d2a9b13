"""How many requests and tokens a key may take in a time, counted by the library `limits` in windows of that length.

A window begins with the first request in it. Tokens are counted when an answer has been made: the request that passes
the quota is answered, and the next one waits for the window's end.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from manyhats.errors import InvalidRequest, Overloaded

_QUOTA = re.compile(r"[1-9][0-9]{0,11}/(second|minute|hour|day)")

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many of something in a window. `name`: of what, as headers and messages call it."""

    name: str
    item: RateLimitItem
    key: str


def parse_quota(text: str, name: str) -> RateLimitItem:
    """The limit that `100/minute` means. Raises InvalidRequest for another text."""
    if not _QUOTA.fullmatch(text):
        raise InvalidRequest(
            f"'{text[:50]}' is no quota; write 100/minute: a number and second, minute, hour or day", param=name
        )
    return parse(text)


@cache
def _limiter() -> FixedWindowRateLimiter:
    return FixedWindowRateLimiter(MemoryStorage())


class Quotas:
    """The quotas of one key."""

    def __init__(self, key: str, *, requests: str = "", tokens: str = "") -> None:
        self._requests = Quota("requests", parse_quota(requests, "requests"), key) if requests else None
        self._tokens = Quota("tokens", parse_quota(tokens, "tokens"), key) if tokens else None

    def take(self) -> None:
        """Counts a request. Raises Overloaded where the key has none left, or no tokens."""
        if self._tokens is not None and not _left(self._tokens):
            raise _used_up(self._tokens)
        requests = self._requests
        if requests is not None and not _limiter().hit(requests.item, requests.name, requests.key):
            raise _used_up(requests)

    def spend(self, tokens: int) -> None:
        """Counts the tokens of an answer."""
        if self._tokens is not None and tokens > 0:
            _limiter().hit(self._tokens.item, self._tokens.name, self._tokens.key, cost=tokens)

    def headers(self) -> Headers:
        """What is left, as OpenAI's servers say it."""
        found: Headers = []
        for quota in (self._requests, self._tokens):
            if quota is not None:
                reset, left = _state(quota)
                for what, value in (("limit", quota.item.amount), ("remaining", left), ("reset", f"{reset:.3f}s")):
                    found.append((f"x-ratelimit-{what}-{quota.name}".encode(), str(value).encode()))
        return found


def _state(quota: Quota) -> tuple[float, int]:
    """Seconds until the window ends, and what is left in it."""
    stats = _limiter().get_window_stats(quota.item, quota.name, quota.key)
    return max(stats.reset_time - time.time(), 0.0), max(stats.remaining, 0)


def _left(quota: Quota) -> int:
    return _state(quota)[1]


def _used_up(quota: Quota) -> Overloaded:
    item = quota.item
    return Overloaded(
        f"this key may take {item.amount} {quota.name} a {item.GRANULARITY.name}, and has taken them",
        retry_after=_state(quota)[0],
    )

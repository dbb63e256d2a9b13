"""Which adapter may have answered a name, at each time: what the changes so far, and those under way, allow."""

from __future__ import annotations

from collections import defaultdict

KEPT = 120.0  # seconds: no answer takes longer

Digests = frozenset[str | None]  # None: there may be nothing under that name
NOTHING: Digests = frozenset({None})


class Truth:
    """By name, as requests write it (`spam`, `spam@canary`, `spam@3`): since when which adapters may answer.

    One thread, which is the event loop's.
    """

    def __init__(self) -> None:
        self._since: dict[str, list[tuple[float, Digests]]] = defaultdict(lambda: [(float("-inf"), NOTHING)])

    def now(self, ref: str) -> Digests:
        """What may answer from now on."""
        return self._since[ref][-1][1]

    def set(self, ref: str, allowed: Digests, now: float) -> None:
        """From now on these may answer."""
        entries = self._since[ref]
        entries.append((now, allowed))
        while len(entries) > 1 and entries[1][0] < now - KEPT:
            entries.pop(0)

    def within(self, ref: str, begin: float, end: float) -> Digests:
        """What may have answered a request that was sent at `begin` and answered at `end`."""
        entries = self._since[ref]
        allowed: set[str | None] = set()
        for i, (since, digests) in enumerate(entries):
            until = entries[i + 1][0] if i + 1 < len(entries) else float("inf")
            if since <= end and until >= begin:
                allowed |= digests
        return frozenset(allowed)

"""Who has used how much lately, so that those who ask for little need not wait for those who ask for much."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_REMEMBERED = 30.0  # seconds for which somebody who asked counts as present
_HALF_LIFE = 5.0  # seconds after which what was used counts half
_LIGHT = 0.5  # of an equal share: who uses less is light
_LOOK = 0.1  # seconds between two looks at all of them
_MAX_FLOWS = 4096  # of whom is remembered; the least recent are forgotten
_MAX_SCALE = 1e12  # of the weight of new use, until all is scaled down


class RecentUse(Generic[K]):
    """What each flow (a client, a tenant, a task) has used, old use fading. Not thread-safe.

    `dominated`: whether one must have used more than half of all, so that the light ones count as crowded. `clock`:
    in seconds.
    """

    def __init__(self, *, dominated: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._dominated = dominated
        self._clock = clock
        self._begin = clock()
        self._used: dict[K, tuple[float, float]] = {}  # scaled use, and when the last of it was, the latest last
        self._looked = -_LOOK
        self._crowded = False
        self._light_below = 0.0  # the scaled use of who asks for little, as of the last look

    def __contains__(self, flow: K) -> bool:
        """Whether a flow is remembered."""
        return flow in self._used

    def add(self, flow: K, amount: float) -> None:
        """A flow uses so much more."""
        now = self._clock()
        scale = 2.0 ** ((now - self._begin) / _HALF_LIFE)  # new use weighs more, instead of all old use less
        if scale > _MAX_SCALE:
            self._used = {name: (used / scale, when) for name, (used, when) in self._used.items()}
            self._light_below /= scale
            self._begin, scale = now, 1.0
        used, _ = self._used.pop(flow, (0.0, 0.0))
        self._used[flow] = used + amount * scale, now

    def crowded(self) -> bool:
        """Whether somebody was there lately who uses much less than an equal share, beside others who use more."""
        if len(self._used) < 2:
            return False
        now = self._clock()
        if now - self._looked < _LOOK:
            return self._crowded
        self._looked = now
        for flow, (_, when) in list(self._used.items()):  # in the order of their last use
            if now - when <= _REMEMBERED and len(self._used) <= _MAX_FLOWS:
                break
            del self._used[flow]
        amounts = [used for used, _ in self._used.values()]
        total = sum(amounts)
        self._light_below = _LIGHT * total / len(amounts) if amounts else 0.0
        light = len(amounts) > 1 and min(amounts) < self._light_below
        self._crowded = light and (not self._dominated or max(amounts) > total / 2)
        return self._crowded

    def is_light(self, flow: K) -> bool:
        """Whether a flow uses much less than an equal share, where somebody is crowded; so does who is new."""
        return self._crowded and self._used.get(flow, (0.0, 0.0))[0] < self._light_below

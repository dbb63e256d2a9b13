"""Times of several sides, measured alternately in one run, so that a drift of the machine's speed affects all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """The seconds of one side, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    def quantile(self, share: float) -> float:
        """The smallest time, in seconds, that at least this share of the rounds did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def timed(run: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1, timer: Callable[..., float] = timed
) -> dict[str, Times]:
    """Runs all sides once a round, after `warm_up` rounds that do not count.

    Every other round runs them in reverse, so that no side always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-warm_up, rounds):
        order = list(sides) if round_ % 2 == 0 else list(sides)[::-1]
        for name in order:
            spent = timer(sides[name])
            if round_ >= 0:
                seconds[name].append(spent)
    return {name: Times(tuple(spent)) for name, spent in seconds.items()}

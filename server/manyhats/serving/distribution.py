"""A histogram as Prometheus has it, of plain numbers that can be added to another."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FEW_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)  # of what there is one for each task
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FEW = (1, 2, 3, 4, 6, 8, 12, 16)


class Distribution:
    """How many values are at most each of `bounds`, in ascending order, and the sum of all. Not thread-safe."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # of each bucket alone; the last one is above all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_steps(self, times: Sequence[float]) -> None:
        """Counts the steps between ascending times."""
        steps = np.diff(np.asarray(times, dtype=np.float64))
        found = np.bincount(np.searchsorted(self.bounds, steps), minlength=len(self.counts))
        self.counts = [one + int(more) for one, more in zip(self.counts, found, strict=True)]
        self.sum += float(steps.sum())

    def add(self, other: Distribution) -> None:
        """Adds the values of another one with the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound as Prometheus writes it, and how many values are at most that."""
        total, cumulative = 0, []
        for bound, count in zip((*map(float, self.bounds), None), self.counts, strict=True):
            total += count
            cumulative.append(("+Inf" if bound is None else repr(bound), float(total)))
        return cumulative

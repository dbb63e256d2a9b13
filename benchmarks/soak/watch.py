"""A process's memory, descriptors and threads over time, and whether they stay where they are."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

WINDOWS = 6  # of the time after the warm-up


@dataclass(frozen=True, slots=True)
class Sample:
    """At one time, in seconds. `rss`: resident bytes; `files`: descriptors that are no sockets."""

    at: float
    rss: int
    files: int
    sockets: int
    threads: int


def sample(pid: int, at: float) -> Sample:
    """What /proc says now. Raises OSError where the process is gone."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    if "VmRSS" not in fields:  # it has ended, and nobody has asked for its status yet
        raise ProcessLookupError(f"the process {pid} has ended")
    files = sockets = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:  # closed in between
            continue
        sockets += target.startswith("socket:")
        files += not target.startswith("socket:")
    return Sample(at, int(fields["VmRSS"].split()[0]) * 1024, files, sockets, int(fields["Threads"]))


@dataclass(frozen=True, slots=True)
class Trend:
    """`first`, `last`: medians of the first and the last window; `fitted`: what a straight line through all samples
    gains from its begin to its end. `growth`, of the first median: the larger of the two."""

    first: float
    last: float
    fitted: float

    @property
    def growth(self) -> float:
        return max(self.last - self.first, self.fitted) / self.first

    def as_json(self) -> dict[str, float]:
        return asdict(self) | {"growth": self.growth}


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Of at least as many samples as windows. Raises ValueError for fewer."""
    if len(values) < WINDOWS:
        raise ValueError(f"{len(values)} samples are too few to see a trend in: {WINDOWS} or more are needed")
    size = len(values) // WINDOWS
    slope = statistics.linear_regression(times, values).slope
    return Trend(statistics.median(values[:size]), statistics.median(values[-size:]), slope * (times[-1] - times[0]))

"""Counts what a GPU would have to do, by the line of code that causes it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType


@dataclass(slots=True)
class Count:
    """What a GPU had to do, by the line in manyhats or transformers that caused it.

    `copies` go from the host to the device, `reads` the other way. `waits`: the host waits for the device, at a read or
    at an operator whose result the host needs. `blocking_copies`: copies for which the host waits too, because their
    memory is not pinned or they are not `non_blocking`. `events`: that were recorded; `stream_waits`: of streams for
    them; `recorded_streams`: of tensors, whose memory is not used again before.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)  # the kernels, by operator
    views: Counter[str] = field(default_factory=Counter)  # what costs the host alone: views and reserved memory
    copies: Counter[str] = field(default_factory=Counter)
    copied_bytes: int = 0
    events: int = 0
    stream_waits: int = 0
    recorded_streams: int = 0
    blocking_copies: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    paused: bool = False

    def reset(self) -> None:
        """Sets all counts to 0."""
        self.copied_bytes = self.events = self.stream_waits = self.recorded_streams = 0
        for counter in self._counters().values():
            counter.clear()

    @contextmanager
    def one_kernel(self, operator: str) -> Iterator[None]:
        """Counts all operators inside the context as one kernel."""
        self.add_kernel(operator)
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def add_kernel(self, operator: str) -> None:
        """Counts one kernel of the calling line."""
        if not self.paused:
            self.kernels[calling_line()] += 1
            self.operators[operator] += 1

    def totals(self) -> dict[str, int]:
        """The totals by name."""
        return {name: counter.total() for name, counter in self._counters().items()}

    def report(self, limit: int = 25) -> str:
        """All counts by line, the most frequent first; for the message of a failed test."""
        lines = [f"{name}: {counter.total()}" for name, counter in self._counters().items()]
        for name, counter in self._counters().items():
            lines += [f"  {name} {n:6d} {place}" for place, n in counter.most_common(limit)]
        return "\n".join(lines)

    def _counters(self) -> dict[str, Counter[str]]:
        names = ("kernels", "operators", "views", "copies", "blocking_copies", "reads", "waits")
        return {name: getattr(self, name) for name in names}


def calling_line() -> str:
    """The nearest caller within manyhats, or within transformers where that is nearer: file and line, or function."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/manyhats/" in path:
            return f"{path.rpartition('/manyhats/')[2]}:{frame.f_lineno}"
        if "/transformers/" in path:
            return f"transformers/{path.rpartition('/transformers/')[2]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"

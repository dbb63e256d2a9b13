"""What the server did lately, for people who watch it: its last batches, and the last minutes' traffic by task."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from manyhats.core.report import BatchReport

MAX_BATCHES = 256
INTERVAL = 5  # seconds
INTERVALS = 60
_MAX_TASKS = 1000  # tasks of one interval; the requests of others are in the sum alone


class RecentBatches:
    """The last batches. `add` is called in the model's thread, `last` in any."""

    def __init__(self) -> None:
        self._batches: deque[tuple[float, BatchReport]] = deque(maxlen=MAX_BATCHES)

    def add(self, report: BatchReport) -> None:
        """Remembers a batch that has just ended."""
        self._batches.append((time.time(), report))

    def last(self, count: int) -> list[tuple[float, BatchReport]]:
        """At most `count` of them with the time (Unix, seconds) when each ended, the newest first."""
        kept = self._batches.copy()  # in one step: a batch that ends meanwhile may not change what is read
        kept.reverse()
        return list(kept)[:count]


@dataclass(slots=True)
class Traffic:
    """Requests of one interval. `seconds` is the sum over those answered, `longest` the longest of them."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class _Interval:
    number: int  # since 1970
    total: Traffic
    tasks: dict[str, Traffic]


class RecentTraffic:
    """Requests of the last `INTERVALS` intervals of `INTERVAL` seconds. Only the event loop's thread uses it.

    `clock`: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._intervals: deque[_Interval] = deque(maxlen=INTERVALS)  # those with a request, in order

    def answered(self, task: str, error: object, seconds: float) -> None:
        """Counts one request. `task`: one that exists, or empty. `error`: None where there was none."""
        number = int(self._clock() // INTERVAL)
        if not self._intervals or self._intervals[-1].number < number:
            self._intervals.append(_Interval(number, Traffic(), {}))
        current = self._intervals[-1]  # also where the clock was put back
        own = current.tasks.get(task)
        if own is None and task and len(current.tasks) < _MAX_TASKS:
            own = current.tasks[task] = Traffic()
        for counted in (current.total, own):
            if counted is None:
                continue
            counted.requests += 1
            if error is not None:
                counted.failed += 1
                continue
            counted.seconds += seconds
            if seconds > counted.longest:
                counted.longest = seconds

    def busiest(self, count: int, shown: Callable[[str], bool] = lambda task: True) -> list[str]:
        """The tasks with the most requests, at most `count`, of those that are to be shown."""
        asked: dict[str, int] = {}
        for interval in self._kept():
            for task, counted in interval.tasks.items():
                asked[task] = asked.get(task, 0) + counted.requests
        return sorted(filter(shown, asked), key=lambda task: (-asked[task], task))[:count]

    def history(
        self, tasks: Iterable[str], shown: Callable[[str], bool] | None = None
    ) -> tuple[float, Sequence[Traffic], Mapping[str, Sequence[Traffic]]]:
        """When the newest interval ends (Unix, seconds); the sum of all tasks for each interval, the oldest first; and
        the same for each of `tasks` that had requests. The newest interval is not over yet.

        `shown`: of which tasks the sum is; None for all, and for requests that named none.
        """
        newest = self._newest()
        kept = {interval.number: interval for interval in self._kept()}
        numbers = range(newest - INTERVALS + 1, newest + 1)
        nothing = Traffic()
        total = [_sum(kept[n], shown) if n in kept else nothing for n in numbers]
        by_task = {
            task: [kept[n].tasks.get(task, nothing) if n in kept else nothing for n in numbers]
            for task in tasks
            if any(task in interval.tasks for interval in kept.values())
        }
        return float((newest + 1) * INTERVAL), total, by_task

    def _newest(self) -> int:
        return int(self._clock() // INTERVAL)

    def _kept(self) -> list[_Interval]:
        oldest = self._newest() - INTERVALS + 1
        return [interval for interval in self._intervals if interval.number >= oldest]


def _sum(interval: _Interval, shown: Callable[[str], bool] | None) -> Traffic:
    """The requests of some tasks together; None for all."""
    if shown is None:
        return interval.total
    total = Traffic()
    for task, counted in interval.tasks.items():
        if shown(task):
            total.requests += counted.requests
            total.failed += counted.failed
            total.seconds += counted.seconds
            total.longest = max(total.longest, counted.longest)
    return total

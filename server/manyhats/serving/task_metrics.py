"""What is counted of each task and method, for a bounded number of tasks: those that are asked.

A task has a label of its own as long as it is asked. When all labels are given, a further task's requests are counted
under `other`, until a task that has one was not asked for a while, or is deleted, and gives it up. Its series then
end, and begin at 0 when it comes back, which Prometheus takes for a restart: `rate` and `increase` stay right. What
they had counted is kept for the sums alone, which never go back.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from manyhats.core.answered import Answered
from manyhats.serving.distribution import FEW_SECONDS, SECONDS, Distribution

OTHER, UNKNOWN, NO_METHOD = "other", "unknown", ""
RETIRED = "retired"  # of the sums alone
_IDLE_SECONDS = 60.0  # since a task was asked last, after which it gives its label up for one that is asked

Label = tuple[str, str]  # task, method

_COUNTERS = {
    "inputs": ("manyhats_inputs", "Inputs that were answered"),
    "input_tokens": ("manyhats_input_tokens", "Tokens of the inputs that were answered"),
    "output_tokens": ("manyhats_output_tokens", "Tokens that were generated"),
}
_TIMES = {
    "total": ("manyhats_request_seconds", "Time from receiving a request to answering it"),
    "queue": ("manyhats_request_queue_seconds", "Time that answered requests waited for their first pass"),
    "load": (
        "manyhats_request_load_seconds",
        "Time that answered requests waited for their adapter, of those that did",
    ),
    "compute": ("manyhats_request_compute_seconds", "Time of answered requests in the model, all passes together"),
    "first_token": ("manyhats_time_to_first_token_seconds", "Time from receiving a request to its first token"),
    "between_tokens": ("manyhats_time_between_tokens_seconds", "Time from one token of a text to the next"),
}


class TaskFigures:
    """What is counted of one task and method. `requests`: by outcome, `ok` or the error's class."""

    __slots__ = (
        "between_tokens",
        "compute",
        "first_token",
        "input_tokens",
        "inputs",
        "load",
        "output_tokens",
        "queue",
        "requests",
        "total",
    )

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.inputs = self.input_tokens = self.output_tokens = 0
        self.total = Distribution(SECONDS)
        self.queue, self.load, self.compute, self.first_token, self.between_tokens = (
            Distribution(FEW_SECONDS) for _ in range(5)
        )

    def add(self, other: TaskFigures) -> None:
        """Adds what another one has counted."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _TIMES:
            getattr(self, name).add(getattr(other, name))

    def copy(self) -> TaskFigures:
        """The same, which counts no further."""
        same = TaskFigures()
        same.add(self)
        return same


class TaskMetrics:
    """The figures by task and method. `max_tasks`: how many tasks have a label at once. `clock`: seconds.

    Any thread may call it.
    """

    def __init__(self, max_tasks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_tasks = max_tasks
        self._clock = clock
        self._lock = threading.Lock()
        self._figures: dict[Label, TaskFigures] = {}
        self._asked: OrderedDict[str, float] = OrderedDict()  # when each task with a label was, the longest ago first
        self._retired: dict[str, TaskFigures] = {}  # by method: of labels that were given up

    def answered(self, one: Answered) -> None:
        """Counts one request."""
        with self._lock:
            task, figures = one.task, self._figures.get((one.task, one.method))
            if figures is not None and task in self._asked:  # as most times
                self._asked[task] = self._clock()
                self._asked.move_to_end(task)
            else:
                figures = self._of(task if one.found else "", one.method)
            outcome = one.error or "ok"
            figures.requests[outcome] = figures.requests.get(outcome, 0) + 1
            if one.error:
                return
            figures.inputs += one.inputs
            figures.input_tokens += one.input_tokens
            figures.output_tokens += one.output_tokens
            # Written out: a call for each of them would cost more than the counting.
            seconds = one.seconds
            total = figures.total
            total.counts[bisect_left(SECONDS, seconds)] += 1
            total.sum += seconds
            times = [(figures.queue, one.queue_ms), (figures.compute, one.compute_ms)]
            if one.load_ms:
                times.append((figures.load, one.load_ms))
            for distribution, milliseconds in times:
                distribution.counts[bisect_left(FEW_SECONDS, milliseconds / 1000)] += 1
                distribution.sum += milliseconds / 1000
            for token_times in one.token_times:
                figures.first_token.observe(token_times[0] - one.received)
                if len(token_times) > 1:
                    figures.between_tokens.observe_steps(token_times)

    def retire(self, task: str) -> None:
        """A task is gone: its label is free."""
        with self._lock:
            if self._asked.pop(task, None) is not None:
                self._retire(task)

    def total(self) -> TaskFigures:
        """Of all tasks, those with and without a label, together."""
        total = TaskFigures()
        for _, figures in self._copies(retired=True):
            total.add(figures)
        return total

    def families(self, *, retired: bool) -> Iterator[Metric]:
        """The metrics. `retired`: with what was counted under labels that were given up, for sums."""
        copies = list(self._copies(retired=retired))
        labels = ["task", "method"]
        requests = CounterMetricFamily(
            "manyhats_requests", "Requests answered or refused", labels=["task", "method", "outcome"]
        )
        for label, figures in copies:
            for outcome, count in figures.requests.items():
                requests.add_metric([*label, outcome], count)
        yield requests
        for name, (metric, text) in _COUNTERS.items():
            counter = CounterMetricFamily(metric, text, labels=labels)
            for label, figures in copies:
                if figures.inputs:
                    counter.add_metric(label, getattr(figures, name))
            yield counter
        for name, (metric, text) in _TIMES.items():
            histogram = HistogramMetricFamily(metric, text, labels=labels)
            for label, figures in copies:
                times: Distribution = getattr(figures, name)
                if times.count:
                    histogram.add_metric(label, times.buckets(), times.sum)
            yield histogram

    def _copies(self, *, retired: bool) -> Iterable[tuple[Label, TaskFigures]]:
        """Each label with its figures, copied one by one so that nobody waits for long."""
        with self._lock:
            found = [*self._figures.items()]
            if retired:
                found += [((RETIRED, method), figures) for method, figures in self._retired.items()]
        for label, figures in found:
            with self._lock:
                copied = figures.copy()
            yield label, copied

    def _of(self, task: str, method: str) -> TaskFigures:
        """Where a request is counted. The lock is held."""
        label = (self._labelled(task), method) if task else (UNKNOWN, NO_METHOD)
        if (figures := self._figures.get(label)) is None:
            figures = self._figures[label] = TaskFigures()
        return figures

    def _labelled(self, task: str) -> str:
        """The task's own label, or `other`. The lock is held."""
        now = self._clock()
        asked = self._asked
        if task not in asked:
            if task in (OTHER, UNKNOWN, RETIRED):  # a task's name may be any
                return OTHER
            if len(asked) >= self._max_tasks:
                oldest = next(iter(asked), None)
                if oldest is None or now - asked[oldest] < _IDLE_SECONDS:
                    return OTHER
                del asked[oldest]
                self._retire(oldest)
        asked[task] = now
        asked.move_to_end(task)
        return task

    def _retire(self, task: str) -> None:
        for label in [label for label in self._figures if label[0] == task]:
            self._retired.setdefault(label[1], TaskFigures()).add(self._figures.pop(label))

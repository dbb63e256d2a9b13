"""What a server counts for Prometheus, and what it did lately."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.core.answered import Answered
from manyhats.core.call import CURRENT_CALL
from manyhats.core.report import BatchReport
from manyhats.serving.activity import RecentBatches, RecentTraffic
from manyhats.serving.distribution import FEW, SECONDS, SIZES, Distribution
from manyhats.serving.http_metrics import HttpMetrics
from manyhats.serving.task_metrics import TaskMetrics

# Families whose labels name tasks in a list: whoever may not see the names does not get them at all.
LISTS_TASKS = frozenset({"vllm:lora_requests_info"})


class Metrics(Collector):  # type: ignore[misc]
    """Counters of one server. `max_tasks`: the maximum number of tasks with their own label at once; the rest share
    `other`."""

    def __init__(self, max_tasks: int) -> None:
        self.registry = CollectorRegistry()
        self.recent_batches = RecentBatches()
        self.recent_traffic = RecentTraffic()
        self.tasks = TaskMetrics(max_tasks)
        self.http = HttpMetrics()
        self._lock = threading.Lock()  # of the model's thread and the loading threads
        self._batch_tokens = 0
        self._batches = (  # in the order of `batch`
            ("manyhats_batch_sequences", "Sequences of a batch", Distribution(SIZES)),
            ("manyhats_batch_tasks", "Tasks of a batch", Distribution(SIZES)),
            ("manyhats_batch_methods", "Methods of a batch", Distribution(FEW)),
            ("manyhats_batch_signatures", "Different sets of operations of a batch", Distribution(FEW)),
            ("manyhats_batch_seconds", "Time of a batch in the model", Distribution(SECONDS)),
        )
        self._load_seconds = Distribution(SECONDS)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def answered(self, one: Answered) -> None:
        """Counts one item of a request, and keeps it for who writes the request down."""
        self.recent_traffic.answered(one.task if one.found else "", one.error or None, one.seconds)
        self.tasks.answered(one)
        if (answers := CURRENT_CALL.get().answers) is not None:
            answers.append(one)

    def batch(self, report: BatchReport) -> None:
        """Counts one forward pass."""
        self.recent_batches.add(report)
        values = (report.sequences, len(report.tasks), len(report.methods), report.signatures, report.seconds)
        with self._lock:
            self._batch_tokens += report.tokens
            for (_, _, counted), value in zip(self._batches, values, strict=True):
                counted.counts[bisect_left(counted.bounds, value)] += 1
                counted.sum += value

    def loaded(self, seconds: float) -> None:
        """Counts one adapter read from disk."""
        with self._lock:
            self._load_seconds.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """The metrics, by task."""
        yield from self.tasks.families(retired=False)
        yield from self._others()

    def summable(self) -> Iterator[Metric]:
        """The same with what was counted under labels that were given up, for sums over all tasks."""
        yield from self.tasks.families(retired=True)
        yield from self._others()

    def _others(self) -> Iterator[Metric]:
        yield from self.http.families()
        with self._lock:
            families = [(name, text, one.buckets(), one.sum) for name, text, one in self._batches]
            tokens = self._batch_tokens
            text = "Time to read an adapter from disk"
            families.append(
                ("manyhats_adapter_load_seconds", text, self._load_seconds.buckets(), self._load_seconds.sum)
            )
        yield CounterMetricFamily("manyhats_batch_tokens", "Tokens that ran through the model", tokens)
        for name, text, buckets, total in families:
            yield HistogramMetricFamily(name, text, buckets, total)


class SummedOverTasks(Collector):  # type: ignore[misc]
    """The same metrics summed over all tasks, without their names."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The families of the registry."""
        own = {family.name: family for family in self._metrics.summable()}
        for family in self._metrics.registry.collect():
            if family.name in LISTS_TASKS:
                continue
            family = own.get(family.name, family)
            summed = Metric(family.name, family.documentation, family.type, family.unit)
            values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
            for sample in family.samples:
                labels = tuple((name, value) for name, value in sample.labels.items() if name != "task")
                key = sample.name, labels
                values[key] = values.get(key, 0.0) + sample.value
            for (name, labels), value in values.items():
                summed.add_sample(name, dict(labels), value)
            yield summed

"""Prometheus metrics by task, and what the server did lately."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.core.report import BatchReport
from manyhats.engine.engine import Engine
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Version
from manyhats.registry.registry import Registry
from manyhats.serving.activity import RecentBatches, RecentTraffic

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one server. `max_tasks`: the maximum number of tasks with their own label; the rest share
    `other`."""

    def __init__(self, max_tasks: int) -> None:
        self.registry = CollectorRegistry()
        self.recent_batches = RecentBatches()
        self.recent_traffic = RecentTraffic()
        self._max_tasks = max_tasks
        self._labelled: set[str] = set()
        # By their labels: looking one up in prometheus_client takes longer than counting.
        self._counted: dict[tuple[str, str], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self._run: dict[str, Counter] = {}
        self._requests = Counter(
            "manyhats_requests", "Requests answered or refused", ["task", "outcome"], registry=self.registry
        )
        self._inputs = Counter("manyhats_inputs", "Inputs that ran through the model", ["task"], registry=self.registry)
        self._seconds = Histogram(
            "manyhats_request_seconds",
            "Time from receiving a request to answering it",
            ["task"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_sequences = Histogram(
            "manyhats_batch_sequences", "Sequences of a batch", buckets=_SIZES, registry=self.registry
        )
        self._batch_tasks = Histogram(
            "manyhats_batch_tasks", "Tasks of a batch", buckets=_SIZES, registry=self.registry
        )
        self._batch_tokens = Counter(
            "manyhats_batch_tokens", "Tokens that ran through the model", registry=self.registry
        )
        self._batch_seconds = Histogram(
            "manyhats_batch_seconds", "Time of a batch in the model", buckets=_SECONDS, registry=self.registry
        )
        self._load_seconds = Histogram(
            "manyhats_adapter_load_seconds",
            "Time to read an adapter from disk",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _label(self, task: str) -> str:
        if task in self._labelled:
            return task
        if len(self._labelled) >= self._max_tasks:
            return "other"
        self._labelled.add(task)
        return task

    def answered(self, task: str, error: Exception | None, seconds: float) -> None:
        """Counts one request. `task`: one that exists, or empty."""
        self.recent_traffic.answered(task, error, seconds)
        label = self._label(task) if task else "unknown"
        key = label, "ok" if error is None else type(error).__name__
        if (counted := self._counted.get(key)) is None:
            counted = self._counted[key] = self._requests.labels(*key)
        counted.inc()
        if error is not None:
            return
        if (timed := self._timed.get(label)) is None:
            timed = self._timed[label] = self._seconds.labels(label)
        timed.observe(seconds)

    def batch(self, report: BatchReport) -> None:
        """Counts one forward pass."""
        self.recent_batches.add(report)
        self._batch_sequences.observe(report.sequences)
        self._batch_tasks.observe(len(report.tasks))
        self._batch_tokens.inc(report.tokens)
        self._batch_seconds.observe(report.seconds)
        for task, count in report.tasks.items():
            label = self._label(task)
            if (run := self._run.get(label)) is None:
                run = self._run[label] = self._inputs.labels(label)
            run.inc(count)

    def loaded(self, seconds: float) -> None:
        """Counts one adapter read from disk."""
        self._load_seconds.observe(seconds)


class SummedOverTasks(Collector):  # type: ignore[misc]
    """The same metrics summed over all tasks, without their names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """The families of the registry."""
        for family in self._registry.collect():
            summed = Metric(family.name, family.documentation, family.type, family.unit)
            values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
            for sample in family.samples:
                labels = tuple((name, value) for name, value in sample.labels.items() if name != "task")
                values.setdefault((sample.name, labels), []).append(sample.value)
            for (name, labels), several in values.items():
                # Not summed: a time of creation.
                summed.add_sample(name, dict(labels), min(several) if name.endswith("_created") else sum(several))
            yield summed


class RuntimeGauges(Collector):  # type: ignore[misc]
    """Gauges read from the server's components at each scrape. `quarantined`: the versions that are not asked;
    `max_versions`: of those, how many are named."""

    def __init__(
        self,
        registry: Registry,
        adapter_cache: AdapterCache,
        engine: Engine,
        *,
        is_ready: Callable[[], bool],
        max_versions: int,
        quarantined: Callable[[], list[Version]],
    ) -> None:
        self._registry = registry
        self._adapter_cache = adapter_cache
        self._engine = engine
        self._is_ready = is_ready
        self._max_versions = max_versions
        self._quarantined = quarantined

    def collect(self) -> Iterable[Metric]:
        """One family for each gauge."""
        stats = self._adapter_cache.stats()
        waiting = self._engine.waiting()
        quarantined = self._quarantined()
        figures = {
            "manyhats_inputs_waiting": ("Inputs in the queues", sum(waiting.values())),
            "manyhats_tasks_waiting": ("Tasks with inputs in the queues", len(waiting)),
            "manyhats_slots_used": ("Adapters on the device", stats.slots),
            "manyhats_slot_bytes": ("Bytes of adapters on the device", stats.slot_bytes),
            "manyhats_slot_bytes_limit": ("Bytes that adapters may take on the device", stats.slot_bytes_limit),
            "manyhats_memory_adapters": ("Adapters in host memory", stats.memory),
            "manyhats_memory_bytes": ("Bytes of adapters in host memory", stats.memory_bytes),
            "manyhats_adapter_loads_total": ("Adapters read from disk", stats.loads),
            "manyhats_adapter_evictions_total": ("Adapters that gave up their slot", stats.evictions),
            "manyhats_tasks": ("Tasks in the registry", self._registry.count),
            "manyhats_quarantined_versions": ("Versions that are not asked: damaged or faulty", len(quarantined)),
            "manyhats_ready": ("Whether the server answers", int(self._is_ready())),
        }
        engine = self._engine
        figures |= {
            "manyhats_engine_restarts_total": ("Times that the model's thread failed and began anew", engine.restarts),
            "manyhats_sequences_failed_total": ("Sequences that ended with an error of the engine", engine.failed),
            "manyhats_detokenizer_failures_total": ("Steps whose texts failed", engine.detokenizer.failures),
        }
        if engine.cache is not None:
            pool = engine.cache.pool
            figures |= {
                "manyhats_sequences_running": ("Sequences that generate", len(engine.scheduler.running)),
                "manyhats_kv_blocks": ("Blocks of keys and values that there are", pool.count),
                "manyhats_kv_blocks_used": ("Blocks that sequences use", pool.used),
                "manyhats_preemptions_total": ("Times that a sequence gave its blocks up", engine.scheduler.preempted),
                "manyhats_prompt_tokens_cached_total": ("Tokens of prompts found in the cache", engine.cache.reused),
            }
        for name, (text, value) in figures.items():
            yield GaugeMetricFamily(name, text, value)
        damaged = GaugeMetricFamily(
            "manyhats_quarantined", "Versions that are not asked: damaged or faulty", labels=["task", "version"]
        )
        for version in quarantined[: self._max_versions]:
            damaged.add_metric([version.task, str(version.number)], 1)
        yield damaged

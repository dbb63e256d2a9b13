"""Metrics that are read from the server's components at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.engine.engine import Engine
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Version
from manyhats.registry.registry import Registry

Figures = Mapping[str, tuple[str, float]]  # what a metric means, and its value


class RuntimeMetrics(Collector):  # type: ignore[misc]
    """Gauges and counters of the components. `max_versions`: of damaged ones that are named. `build`: labels that say
    which server it is. `dropped`: lines of the log of requests that were left out."""

    def __init__(
        self,
        registry: Registry,
        adapter_cache: AdapterCache,
        engine: Engine,
        *,
        is_ready: Callable[[], bool],
        quarantined: Callable[[], Sequence[Version]],
        max_versions: int,
        build: Mapping[str, str],
        dropped: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._adapter_cache = adapter_cache
        self._engine = engine
        self._is_ready = is_ready
        self._quarantined = quarantined
        self._max_versions = max_versions
        self._build = build
        self._dropped = dropped

    def collect(self) -> Iterable[Metric]:
        """One family for each of them."""
        quarantined = self._quarantined()
        for name, (text, value) in self._gauges(len(quarantined)).items():
            yield GaugeMetricFamily(name, text, value)
        for name, (text, value) in self._counters().items():
            yield CounterMetricFamily(name, text, value)
        hits = CounterMetricFamily(
            "manyhats_adapter_requests",
            "Times that an adapter was asked for, by where it was: slot, memory, disk",
            labels=["tier"],
        )
        for tier, count in self._adapter_cache.hits.items():
            hits.add_metric([tier], count)
        yield hits
        damaged = GaugeMetricFamily(
            "manyhats_quarantined", "Versions that are not asked: damaged or faulty", labels=["task", "version"]
        )
        for version in quarantined[: self._max_versions]:
            damaged.add_metric([version.task, str(version.number)], 1)
        yield damaged
        build = GaugeMetricFamily("manyhats_build_info", "Which server this is; always 1", labels=list(self._build))
        build.add_metric(list(self._build.values()), 1)
        yield build

    def _gauges(self, quarantined: int) -> Figures:
        stats, engine = self._adapter_cache.stats(), self._engine
        waiting = engine.waiting()
        figures: dict[str, tuple[str, float]] = {
            "manyhats_inputs_waiting": ("Inputs in the queues", sum(waiting.values())),
            "manyhats_tasks_waiting": ("Tasks with inputs in the queues", len(waiting)),
            "manyhats_slots": ("Adapters that may be on the device", self._adapter_cache.slot_limit),
            "manyhats_slots_used": ("Adapters on the device", stats.slots),
            "manyhats_slot_bytes": ("Bytes of adapters on the device", stats.slot_bytes),
            "manyhats_slot_bytes_limit": ("Bytes that adapters may take on the device", stats.slot_bytes_limit),
            "manyhats_memory_adapters": ("Adapters in host memory", stats.memory),
            "manyhats_memory_bytes": ("Bytes of adapters in host memory", stats.memory_bytes),
            "manyhats_tasks": ("Tasks in the registry", self._registry.count),
            "manyhats_quarantined_versions": ("Versions that are not asked: damaged or faulty", quarantined),
            "manyhats_database_up": (
                "Whether the database of tasks can be reached; without it changes get 503",
                int(not self._registry.database_state.problem),
            ),
            "manyhats_ready": ("Whether the server answers", int(self._is_ready())),
        }
        if engine.cache is not None:
            pool = engine.cache.pool
            figures |= {
                "manyhats_sequences_running": ("Sequences that generate", len(engine.scheduler.running)),
                "manyhats_kv_blocks": ("Blocks of keys and values that there are", pool.count),
                "manyhats_kv_blocks_used": ("Blocks that sequences use", pool.used),
                "manyhats_kv_usage_ratio": ("Part of the blocks that sequences use", pool.used / max(pool.count, 1)),
            }
        return figures

    def _counters(self) -> Figures:
        stats, engine = self._adapter_cache.stats(), self._engine
        figures: dict[str, tuple[str, float]] = {
            "manyhats_adapter_loads": ("Adapters read from disk", stats.loads),
            "manyhats_adapter_evictions": ("Adapters that gave up their slot", stats.evictions),
            "manyhats_changes_followed": (
                "Changes of other servers on the same database that were brought in",
                self._registry.database_state.followed,
            ),
            "manyhats_engine_restarts": ("Times that the model's thread failed and began anew", engine.restarts),
            "manyhats_sequences_failed": ("Sequences that ended with an error of the engine", engine.failed),
            "manyhats_detokenizer_failures": ("Steps whose texts failed", engine.detokenizer.failures),
            "manyhats_request_records_dropped": (
                "Requests that were left out of the log of requests and the traces, as they came too fast",
                self._dropped(),
            ),
        }
        if engine.cache is not None:
            figures |= {
                "manyhats_preemptions": ("Times that a sequence gave its blocks up", engine.scheduler.preempted),
                "manyhats_prompt_tokens_cached": ("Tokens of prompts found in the cache", engine.cache.reused),
            }
        return figures

"""The figures that routers read of vLLM, by vLLM's names, for the setting `metrics_vllm_names`.

They mean what the endpoint picker of the Gateway API's inference extension takes them for: `running_lora_adapters` are
the tasks whose adapters are in slots, so that a request for them waits for nothing; `waiting_lora_adapters` those whose
adapters are on their way; `max_lora` is the number of slots; the value is the time. vLLM itself lists the adapters of
the requests that run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from manyhats.engine.engine import Engine
from manyhats.engine.kv_cache import BLOCK
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.registry import Registry
from manyhats.serving.task_metrics import TaskMetrics

_ENGINE = "0"  # vLLM may have several, which it numbers


class VllmMetrics(Collector):  # type: ignore[misc]
    """A server's figures under vLLM's names. `model`: the backbone's name."""

    def __init__(self, model: str, tasks: TaskMetrics, registry: Registry, cache: AdapterCache, engine: Engine) -> None:
        self._labels = {"model_name": model, "engine": _ENGINE}
        self._tasks = tasks
        self._registry = registry
        self._adapter_cache = cache
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The families."""
        loading = self._adapter_cache.loading()
        running, waiting = self._engine.requests()
        yield self._gauge("num_requests_running", "Requests in the model", len(running))
        yield self._gauge(
            "num_requests_waiting",
            "Requests that wait for the model or for their adapter",
            len(waiting) + sum(count for _, count in loading),
        )
        yield from self._cache()
        yield self._adapters(sorted({task for task, _ in loading}))
        yield from self._totals()

    def _cache(self) -> Iterator[Metric]:
        cache = self._engine.cache
        used, count = (0, 0) if cache is None else (cache.pool.used, cache.pool.count)
        for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc"):  # the second is the name in older releases
            yield self._gauge(name, "Part of the key and value blocks in use; 1 is all", used / max(count, 1))
        if cache is not None:
            labels = self._labels | {"block_size": str(BLOCK), "num_gpu_blocks": str(count)}
            info = GaugeMetricFamily("vllm:cache_config_info", "The key and value cache; always 1", labels=list(labels))
            info.add_metric(list(labels.values()), 1)
            yield info

    def _adapters(self, loading: list[str]) -> Metric:
        resident = self._adapter_cache.resident()
        tasks = {one.task for sha in resident for one in self._registry.needing(sha) if one.sha256 == sha}
        info = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Tasks whose adapters are in slots, and on their way; the value is the time",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        names = ",".join(sorted(tasks))
        info.add_metric([str(self._adapter_cache.slot_limit), names, ",".join(loading)], time.time())
        return info

    def _totals(self) -> Iterator[Metric]:
        total = self._tasks.total()
        preempted = self._engine.scheduler.preempted if self._engine.cache is not None else 0
        counters = {
            "prompt_tokens": ("Tokens of the inputs that were answered", total.input_tokens),
            "generation_tokens": ("Tokens that were generated", total.output_tokens),
            "request_success": ("Requests that were answered", total.requests.get("ok", 0)),
            "num_preemptions": ("Times that a sequence gave its blocks up", preempted),
        }
        for name, (text, value) in counters.items():
            family = CounterMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family
        histograms = {
            "time_to_first_token_seconds": ("Time to the first token", total.first_token),
            "inter_token_latency_seconds": ("Time from one token to the next", total.between_tokens),
            "time_per_output_token_seconds": ("The same, by its name in older releases", total.between_tokens),
            "e2e_request_latency_seconds": ("Time from receiving a request to answering it", total.total),
            "request_queue_time_seconds": ("Time that requests waited for their first pass", total.queue),
        }
        for name, (text, times) in histograms.items():
            histogram = HistogramMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            histogram.add_metric(list(self._labels.values()), times.buckets(), times.sum)
            yield histogram

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

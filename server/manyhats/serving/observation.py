"""What is seen of a running server: its metrics, and the records of its requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manyhats._version import __version__
from manyhats.engine.engine import Engine
from manyhats.observability.recorder import Recorder
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Version
from manyhats.registry.registry import Registry
from manyhats.serving.metrics import Metrics
from manyhats.serving.runtime_metrics import RuntimeMetrics
from manyhats.serving.service import Service
from manyhats.serving.vllm_metrics import VllmMetrics


class Observation:
    """Counts, and has written down, what the parts of a server do. `max_tasks`: how many have a label in metrics."""

    def __init__(self, max_tasks: int, recorder: Recorder | None) -> None:
        self.metrics = Metrics(max_tasks)
        self.recorder = recorder
        self._max_tasks = max_tasks

    def observe(self, service: Service, cache: AdapterCache, engine: Engine) -> None:
        """Has the parts say what they do."""
        engine.runner.on_batch = self.metrics.batch
        cache.on_load = lambda version, seconds: self.metrics.loaded(seconds)
        service.on_answer = self.metrics.answered

    def register(
        self,
        registry: Registry,
        cache: AdapterCache,
        engine: Engine,
        *,
        is_ready: Callable[[], bool],
        quarantined: Callable[[], Sequence[Version]],
        vllm_names: bool,
    ) -> None:
        """Gives the parts' own figures with the metrics; with `vllm_names`, some also under vLLM's names."""

        def on_change(event: str, _: Version | None, task: str) -> None:
            if event == "deleted" and registry.find(task) is None:
                self.metrics.tasks.retire(task)

        registry.subscribe(on_change)
        recorder, backbone = self.recorder, engine.backbone
        self.metrics.registry.register(
            RuntimeMetrics(
                registry,
                cache,
                engine,
                is_ready=is_ready,
                quarantined=quarantined,
                max_versions=self._max_tasks,
                build={"version": __version__, "backbone": backbone.name, "device": str(backbone.device)},
                dropped=lambda: 0 if recorder is None else recorder.dropped,
            )
        )
        if vllm_names:
            self.metrics.registry.register(VllmMetrics(backbone.name, self.metrics.tasks, registry, cache, engine))

    def start(self) -> None:
        """Begins to write requests down."""
        if self.recorder is not None:
            self.recorder.start()

    def close(self) -> None:
        """Writes what waits. Blocking, for some seconds at most."""
        if self.recorder is not None:
            self.recorder.close()

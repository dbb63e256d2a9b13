"""Everything that runs in one process, put together from the settings: backbone, registry, adapter cache, engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from anyio import to_thread

from manyhats.access.control import AccessControl
from manyhats.backbone import Backbone
from manyhats.backbone.loading import choose_device
from manyhats.backbone.precision import use_tf32
from manyhats.engine.compute_threads import run_in_temporary_thread, set_compute_threads, use_one_compute_thread
from manyhats.engine.config import EngineConfig
from manyhats.engine.engine import Engine
from manyhats.engine.freed_memory import keep_freed_memory
from manyhats.engine.fused_norms import use_fused_norms
from manyhats.engine.long_lived import collected_seldom
from manyhats.engine.pass_size import default_batched_tokens
from manyhats.engine.product_caches import bound_product_caches
from manyhats.engine.self_check import self_check
from manyhats.engine.warm_up import warm_up
from manyhats.engine.watchdog import Watchdog
from manyhats.errors import DeadlineExceeded
from manyhats.kernels.registry import check_kernels
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.slots import slot_tables, use_kernels
from manyhats.observability.sinks import open_recorder
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.audit import KEYS_FILE
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.imports import FolderImports
from manyhats.registry.origin import Origin
from manyhats.registry.pinning import Pinning
from manyhats.registry.records import AdapterInfo, Task, TaskSettings, Version, parse_settings
from manyhats.registry.registry import Registry
from manyhats.registry.slot_memory import slot_memory
from manyhats.registry.sources.fetches import Fetches
from manyhats.registry.sources.s3 import check_available
from manyhats.registry.store_state import OWN_FOLDER
from manyhats.registry.stores.choose import metadata_store
from manyhats.serving.adapter_reader import AdapterReader
from manyhats.serving.blob_figures import BlobMetrics
from manyhats.serving.evaluation import Evaluator
from manyhats.serving.fault_figures import FaultFigures
from manyhats.serving.faulty_adapters import quarantined_versions
from manyhats.serving.health import watch
from manyhats.serving.inference import Limits
from manyhats.serving.observation import Observation
from manyhats.serving.preloading import preload
from manyhats.serving.rollout_metrics import RolloutMetrics
from manyhats.serving.rollouts import Rollouts
from manyhats.serving.scanner import Scanner
from manyhats.serving.service import Service
from manyhats.serving.shadow import ShadowTraffic
from manyhats.serving.task_settings import check_settings
from manyhats.serving.threads import ThreadLimits, in_thread
from manyhats.settings import Settings

logger = logging.getLogger(__name__)


class Runtime:
    """One server: what the routes work with. `ready` turns true when it can answer."""

    def __init__(self, settings: Settings, backbone: Backbone | None = None) -> None:
        self.settings = settings
        check_available(settings.allowed_sources)
        self.access = AccessControl(settings)
        keep_freed_memory()
        bound_product_caches()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._threads = torch.get_num_threads()
        self.backbone = run_in_temporary_thread(lambda: _backbone(settings, backbone))
        recorder = open_recorder(settings.request_log, settings.otlp_endpoint)
        self.observation = Observation(settings.metrics_tasks, recorder)
        self.metrics = self.observation.metrics
        self.reader = AdapterReader(self.backbone, settings.max_rank)
        self.registry = Registry(
            settings.store,
            self.reader.inspect,
            database=metadata_store(
                settings.database_url, settings.store / OWN_FOLDER, migrate=settings.database_migrate
            ),
            max_tasks=settings.max_tasks,
            max_versions=settings.max_versions,
            audit_entries=settings.audit_entries,
            blobs=choose_blobs(
                settings.blobs_url, settings.store / OWN_FOLDER, settings.blob_cache, settings.blob_timeout
            ),
        )
        self.access.on_change = lambda action, key: self.registry.audit.add(
            action, detail=(key.name, *key.scopes), call=KEYS_FILE, since=key.revoked or key.created
        )
        self.reader.registry = self.registry
        self._cache_bytes = settings.cache_memory if self.backbone.has_language_model else 0
        slots = slot_memory(settings.slot_memory, self.backbone.device, self._cache_bytes)
        logger.info("memory of slots: %s", slots)
        self.adapter_cache = AdapterCache(
            load=self.reader.load,
            bind=self.reader.bind,
            slot_size=lambda adapter: adapter.slot_size(self.backbone),
            slots=settings.slots,
            slot_bytes=slots.limit,
            memory_bytes=settings.host_memory,
            unbind=lambda bound: slot_tables(self.backbone).release(bound),
            table_bytes=lambda: slot_tables(self.backbone).kernels.table_bytes,
            slots_on_host=self.backbone.device.type == "cpu",
        )
        self.adapter_cache.fetch = self.reader.fetch
        self.imports = FolderImports(self.registry)
        self.pinning = Pinning(self.registry, self.adapter_cache)
        self.engine = Engine(
            self.backbone,
            EngineConfig(
                max_num_batched_tokens=settings.max_num_batched_tokens or self._batched_tokens(slots.limit),
                max_num_seqs=settings.max_num_seqs,
                cache_bytes=settings.cache_memory,
                queue_per_task=settings.queue_per_task,
                queue_total=settings.queue_total,
                threads=self._threads,
                batch_wait=settings.batch_wait,
                enforce_eager=settings.enforce_eager,
            ),
        )
        self.service = Service(self.backbone, self.registry, self.adapter_cache, self.engine, _limits(settings))
        self.threads = ThreadLimits(checking=settings.upload_threads)
        shadows = ShadowTraffic(self.service.background.ask, lambda: sum(self.engine.waiting().values()))
        self.rollouts = Rollouts(self.registry, shadows, self.threads.admin)
        self.evaluator = Evaluator(self.service.background.ask, self.registry, settings.max_inputs)
        self.uploads = 0  # under way
        self.fetches = Fetches()
        self.started = time.time()
        self.state: Literal["starting", "ready", "draining"] = "starting"
        self.on_fatal: Callable[[], None] = lambda: None  # in the model's thread
        self.on_ready: Callable[[], None] = lambda: None  # in the event loop's thread, before it says so
        self.scanner = Scanner(self.imports, settings.scan_interval, before=self.access.reload_if_changed)
        self.watchdog = Watchdog(settings.stall_timeout, settings.stall_limit)
        watch(self.watchdog, self.engine, self.adapter_cache, self.service.dispatcher, self.scanner)
        self.watchdog.on_fatal = self._end_hanging
        self._beginning: asyncio.Task[None] | None = None
        self.fatal = ""  # why the engine has given up
        self.observation.observe(self.service, self.adapter_cache, self.engine)
        self.engine.on_fatal = self._end
        self.engine.step_scope = self.service.dispatcher.one_wake_up
        self.engine.detokenizer.step_scope = self.service.dispatcher.one_wake_up
        self.service.on_rollout = self.rollouts.answered

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        return self.state == "ready" and self.engine.healthy and self.watchdog.problem() is None

    @property
    def condition(self) -> str:
        """What it is, for those who wait until it is ready."""
        if self.state == "ready" and (problem := self.watchdog.problem()) is not None:
            return f"recovering: {problem}"
        if self.state == "ready" and not self.engine.healthy:
            return "recovering from an error of its engine"
        return self.state

    # ---- life

    def use(self, settings: Settings) -> None:
        """Has the limits of these settings from now on. What is under way keeps those that it began with.

        Their keys are `access`'s, which reads a file for them."""
        self.settings = settings
        self.scanner.interval = settings.scan_interval
        self.reader.max_rank = settings.max_rank
        self.service.limits = _limits(settings)
        self.engine.limit_queues(settings.queue_per_task, settings.queue_total)
        self.registry.max_tasks, self.registry.max_versions = settings.max_tasks, settings.max_versions
        self.threads.checking.total_tokens = settings.upload_threads

    def leave(self) -> None:
        """Says that it is not ready, while it still answers."""
        self.state = "draining"

    def open(self) -> None:
        """Opens the store. Raises ConfigurationError where another server has it."""
        with collected_seldom():
            self.registry.open()
        self.registry.subscribe(self.pinning.on_change)
        self.registry.subscribe(self.rollouts.on_change)
        self.observation.register(
            self.registry,
            self.adapter_cache,
            self.engine,
            is_ready=lambda: self.ready,
            quarantined=lambda: quarantined_versions(self.registry, self.service.faulty),
            vllm_names=self.settings.metrics_vllm_names,
        )
        self.metrics.registry.register(RolloutMetrics(self.rollouts, self.settings.metrics_tasks))
        self.metrics.registry.register(FaultFigures(self.service, self.watchdog))
        self.metrics.registry.register(BlobMetrics(self.registry.blobs))

    async def start(self) -> None:
        """Starts the model's thread, imports adapters copied by hand, preloads, and becomes ready."""
        self.engine.start()
        self.observation.start()
        use_one_compute_thread()
        self.watchdog.start()
        self._beginning = asyncio.create_task(self._begin())

    async def stop(self) -> None:
        """Lets work under way finish, within the drain timeout, and closes everything."""
        self.state = "draining"
        if self._beginning is not None:
            self._beginning.cancel()
            with suppress(asyncio.CancelledError):
                await self._beginning
        await self.scanner.stop()
        self.watchdog.stop()
        self.service.verifier.stop()
        await self.rollouts.stop()
        if await to_thread.run_sync(self.engine.stop, self.settings.drain_timeout):
            await to_thread.run_sync(self.close)
        else:  # a running pass keeps what it uses
            logger.error("a pass has not ended in time; adapters and the store stay open until the process ends")
        set_compute_threads(self._threads)
        await to_thread.run_sync(self.observation.close)

    def close(self) -> None:
        """Gives back threads and the store."""
        self.adapter_cache.close()
        self.registry.close()

    def _end_hanging(self, reason: str) -> None:
        """Something hangs for good, or dies again and again."""
        self.engine.hangs = self.engine.busy_since is not None
        self._end(reason)

    def _end(self, reason: str) -> None:
        """The engine has given up: the process ends, with a status that says so."""
        self.fatal = reason
        logger.critical("the engine has given up, the server ends: %s", reason)
        self.on_fatal()

    async def _begin(self) -> None:
        await self.scanner.settle()
        try:
            await to_thread.run_sync(preload, self.registry, self.pinning, self.adapter_cache, self.settings.preload)
        except Exception:  # a request for what cannot be preloaded gets the reason
            logger.exception("preloading failed")
        self.on_ready()
        self.state = "ready"
        logger.info("ready: %d tasks in %s", self.registry.count, self.settings.store)
        self.scanner.start()

    # ---- adapters

    async def configure(self, task: str, partial: Mapping[str, Any]) -> Task:
        """Sets what is not weights. Raises InvalidRequest where labels do not fit the head."""
        self._check_settings(task, partial)
        pinned = self.pinning.pin(self.registry.task(task)) if partial.get("pinned") else []
        try:
            for _, load_future in pinned:
                await self._wait_loaded(load_future)
            return await in_thread(self.threads.admin, self.registry.put_settings, task, dict(partial))
        finally:
            if "pinned" in partial and (found := self.registry.find(task)) is not None:  # also where pinning failed
                self.pinning.unpin_unused(found.versions)

    def add_version(
        self,
        task: str,
        staged: Path,
        *,
        alias: str,
        activate: bool,
        settings: Mapping[str, Any] | None,
        warnings: Iterable[str],
        check: Callable[[AdapterInfo], object] = lambda info: None,
        origin: Origin | None = None,
    ) -> tuple[Version, bool]:
        """Makes a version of staged files, with settings for its task that are checked as `configure` checks them.

        `check` is given what the files are, and raises for what does not fit them. Blocking. Raises what
        `Registry.add_version` raises, and InvalidRequest where the settings do not fit.
        """
        partial = settings or {}

        def check_all(info: AdapterInfo) -> None:
            self._check_fit(task, partial, info)
            check(info)

        return self.registry.add_version(
            task,
            staged,
            alias=alias,
            activate=activate,
            settings=_as_settings(partial) if partial else None,
            warnings=warnings,
            check=check_all,
            origin=origin,
        )

    def _check_settings(self, task: str, partial: Mapping[str, Any]) -> None:
        """Checks settings against what `stable` points at."""
        found = self.registry.task(task)
        version = found.stable
        info = None
        if version is not None:
            info = version.info
            if "kind" not in partial:  # the one that was set before holds for the rest
                info = replace(info, kind=found.settings_for(version).kind or info.kind)
        self._check_fit(task, partial, info)

    def _check_fit(self, task: str, partial: Mapping[str, Any], info: AdapterInfo | None) -> None:
        """Raises InvalidRequest for settings of a task that are wrong, or do not fit an adapter."""
        own = self.registry.find(task)
        check_settings(task, partial, info, self.backbone, prompts=(own.settings.prompts if own else None) or ())

    async def _wait_loaded(self, load_future: Future[BoundAdapter]) -> None:
        """Waits until an adapter is in its slot. Raises what loading raises, or DeadlineExceeded."""
        try:
            async with asyncio.timeout(self.settings.request_timeout):
                await asyncio.wrap_future(load_future)
        except TimeoutError:
            raise DeadlineExceeded("the adapter did not get a slot in time; all slots are in use") from None

    async def ensure_loaded(self, task: str) -> None:
        """Loads a task's adapter into a slot, and waits for it."""
        version = self.registry.pin(task)
        try:
            await self._wait_loaded(self.adapter_cache.ensure_loaded(version))
        finally:
            self.registry.unpin(version)

    def _batched_tokens(self, slot_bytes: int) -> int:
        """The most tokens of one pass beside slots of so many bytes, where no setting says it."""
        chosen = default_batched_tokens(self.backbone, slot_bytes + self._cache_bytes)
        logger.info("max_num_batched_tokens is %d, chosen for %s", chosen, self.backbone.device)
        return chosen


def _backbone(settings: Settings, given: Backbone | None) -> Backbone:
    """The backbone, ready and checked."""
    check_kernels(settings.kernels)  # before it takes its time
    use_tf32(choose_device(settings.device) if given is None else given.device, settings.tf32)
    backbone = given or Backbone.load(
        settings.backbone,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        prepacked=settings.weight_layout == "auto" and not settings.deterministic,
    )
    use_kernels(backbone, settings.kernels)
    use_fused_norms(backbone)
    if settings.self_check:
        self_check(backbone)
    else:
        logger.warning("self_check is off: the packed pass is not compared with the unmodified model")
    warm_up(backbone)
    return backbone


def _limits(settings: Settings) -> Limits:
    """Those of one call."""
    return Limits(
        max_inputs=settings.max_inputs,
        max_characters=settings.max_characters,
        timeout=settings.request_timeout,
        max_faults=settings.max_faults,
        fault_window=settings.fault_window,
        verify_fraction=settings.verify_fraction,
    )


def _as_settings(partial: Mapping[str, Any]) -> TaskSettings:
    """Settings of which some are None: those go back to what the files bring."""
    given = {name: value for name, value in partial.items() if value is not None}
    return parse_settings(given).model_copy(update={name: None for name in partial if name not in given})

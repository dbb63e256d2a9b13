"""Loads tasks' adapters into slots before the server says that it is ready."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from manyhats.engine.long_lived import collected_seldom
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.pinning import Pinning
from manyhats.registry.records import Version
from manyhats.registry.registry import Registry

logger = logging.getLogger(__name__)


def preload(registry: Registry, pinning: Pinning, adapter_cache: AdapterCache, tasks: int) -> None:
    """Pinned tasks first, then others by name until there are `tasks`, as far as the slots go. Blocking.

    One that cannot be loaded is left to the first request for it, which gets the reason.
    """
    with collected_seldom():
        for version, load in _begun(registry, pinning, adapter_cache, tasks):
            try:
                load.result()
            except Exception as error:
                logger.warning("the adapter %s cannot be preloaded: %s", version.ref, error)


def _begun(
    registry: Registry, pinning: Pinning, adapter_cache: AdapterCache, most: int
) -> list[tuple[Version, Future[BoundAdapter]]]:
    tasks = sorted(registry.all(), key=lambda task: (not task.settings.pinned, task.name))
    loads: list[tuple[Version, Future[BoundAdapter]]] = []
    used = 0
    for task in tasks[: max(most, sum(task.settings.pinned for task in tasks))]:
        version = task.stable
        if version is None:
            continue
        used += version.info.bytes
        if task.settings.pinned:
            loads.extend(pinning.pin(task))
        elif len(loads) < adapter_cache.slot_limit and used < adapter_cache.budget.total // 2:
            loads.append((version, adapter_cache.ensure_loaded(version)))
    return loads

"""Keeps the tiers in step with the registry: what pinned tasks answer with stays in slots, what is deleted goes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Task, Version
from manyhats.registry.registry import Registry


class Pinning:
    """Pins every version that `stable` of a pinned task points at, and no other. Two tasks may share a content."""

    def __init__(self, registry: Registry, residency: AdapterCache) -> None:
        self._registry = registry
        self._residency = residency

    def pin(self, task: Task) -> list[tuple[Version, Future[BoundAdapter]]]:
        """Brings what `stable` points at into slots that are not given up; each version with its future."""
        return [(version, self._residency.pin(version)) for version in task.stable_versions]

    def let_go(self, versions: Iterable[Version]) -> None:
        """Unpins those of the versions whose content no pinned task answers with."""
        wanted = {v.sha256 for task in self._registry.all() if task.settings.pinned for v in task.stable_versions}
        for version in versions:
            if version.sha256 not in wanted:
                self._residency.unpin(version.sha256)

    def on_change(self, event: str, version: Version | None, task: str) -> None:
        """A listener of the registry's changes (`Registry.subscribe`)."""
        if version is None:
            return
        if event == "deleted":
            if not self._registry.uses(version.sha256):
                self._residency.unload(version.sha256)
            elif self._residency.is_pinned(version.sha256):
                self.let_go([version])
        elif event == "activated":
            self._residency.prefetch(version)
            found = self._registry.find(task)
            if found is not None and found.settings.pinned:
                self.pin(found)
                self.let_go(found.versions)

"""Keeps the adapter cache in step with the registry: pins what pinned tasks answer with, unloads what is deleted."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Task, Version
from manyhats.registry.registry import Registry


class Pinning:
    """Pins every version that `stable` of a pinned task points at, and no other. Two tasks may share a content."""

    def __init__(self, registry: Registry, adapter_cache: AdapterCache) -> None:
        self._registry = registry
        self._adapter_cache = adapter_cache

    def pin(self, task: Task) -> list[tuple[Version, Future[BoundAdapter]]]:
        """Pins what `stable` points at in the adapter cache; each version with its load future."""
        return [(version, self._adapter_cache.pin(version)) for version in task.stable_versions]

    def unpin_unused(self, versions: Iterable[Version]) -> None:
        """Unpins those of the versions whose content no pinned task answers with."""
        for sha in dict.fromkeys(version.sha256 for version in versions):
            if not any(self._is_pinned(version.task, sha) for version in self._registry.needing(sha)):
                self._adapter_cache.unpin(sha)

    def _is_pinned(self, name: str, sha256: str) -> bool:
        """Whether a task is pinned and answers with this content."""
        task = self._registry.find(name)
        return task is not None and task.settings.pinned and any(v.sha256 == sha256 for v in task.stable_versions)

    def on_change(self, event: str, version: Version | None, task: str) -> None:
        """A listener of the registry's changes (`Registry.subscribe`)."""
        if version is None:
            if event == "changed" and (found := self._registry.find(task)) is not None:
                if found.settings.pinned:
                    self.pin(found)
                self.unpin_unused(found.versions)
            return
        if event == "deleted":
            if not self._registry.uses(version.sha256):
                self._adapter_cache.unload(version.sha256)
            elif self._adapter_cache.is_pinned(version.sha256):
                self.unpin_unused([version])
        elif event == "activated":
            self._adapter_cache.prefetch(version)
            found = self._registry.find(task)
            if found is not None and found.settings.pinned:
                self.pin(found)
                self.unpin_unused(found.versions)

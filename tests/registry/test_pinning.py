"""What is pinned stays in slots, whatever else changes; and what is not, does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.pinning import Pinning
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry

from tests.registry.helpers import upload
from tests.waiting import wait_until


@pytest.fixture
def adapter_cache(registry: Registry) -> Iterator[AdapterCache]:
    """An adapter cache in step with the registry, of adapters that are nothing but a name."""
    made = AdapterCache(
        load=lambda version: _Named(version.sha256),  # type: ignore[arg-type,return-value]
        bind=lambda adapter: adapter,  # type: ignore[arg-type,return-value]
        slot_size=lambda adapter: 1,
        slots=8,
        slot_bytes=100,
        memory_bytes=100,
    )
    registry.subscribe(Pinning(registry, made).on_change)
    yield made
    made.close()


class _Named:
    nbytes = 1

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def pinned(registry: Registry, adapter_cache: AdapterCache) -> Callable[[], dict[str, bool]]:
    """Which contents are pinned, by task and number."""

    def look() -> dict[str, bool]:
        wait_until(lambda: not adapter_cache._load_jobs, "all adapters are loaded")
        return {v.ref: adapter_cache.is_pinned(v.sha256) for task in registry.all() for v in task.versions}

    return look


Look = Callable[[], dict[str, bool]]


def test_another_alias_leaves_stable_pinned(registry: Registry, pinned: Look) -> None:
    upload(registry, "spam", "one")
    registry.put_settings("spam", {"pinned": True})
    registry.set_alias("spam", "stable", [Target(1)])
    upload(registry, "spam", "two", alias="canary")
    assert pinned() == {"spam@1": True, "spam@2": False}
    registry.set_alias("spam", "old", [Target(2)])
    assert pinned() == {"spam@1": True, "spam@2": False}
    registry.set_alias("spam", "stable", [Target(2)])
    assert pinned() == {"spam@1": False, "spam@2": True}
    registry.rollback("spam")
    assert pinned() == {"spam@1": True, "spam@2": False}
    registry.set_alias("spam", "stable", [Target(1, 9.0), Target(2)])
    assert pinned() == {"spam@1": True, "spam@2": True}


def test_a_content_that_two_tasks_share_stays_for_the_other(
    registry: Registry, adapter_cache: AdapterCache, pinned: Look
) -> None:
    for task in ("spam", "ham", "eggs"):
        upload(registry, task, "one")
    for task in ("spam", "ham"):
        registry.put_settings(task, {"pinned": True})
        registry.set_alias(task, "stable", [Target(1)])
    Pinning(registry, adapter_cache).pin(registry.task("spam"))
    registry.delete_task("spam")
    assert pinned() == {"ham@1": True, "eggs@1": True}
    registry.delete_task("ham")
    assert pinned() == {"eggs@1": False}


def test_an_adapter_unpinned_while_it_loads_is_not_pinned(
    registry: Registry, adapter_cache: AdapterCache, store: Path
) -> None:
    version: Any = upload(registry, "spam", "one")
    load_future = adapter_cache.pin(version)
    adapter_cache.unpin(version.sha256)
    load_future.result(60)
    wait_until(lambda: not adapter_cache._load_jobs, "it is loaded")
    assert adapter_cache.level(version.sha256) == "slot"
    assert not adapter_cache.is_pinned(version.sha256)

"""Watches of aliases, and withdrawals, without a model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import CapacityLimiter
from manyhats.errors import EngineFailure, InvalidRequest, StorageFull
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry
from manyhats.registry.rollout import Canary, Rollout, Shadow
from manyhats.serving import rollouts as module
from manyhats.serving.inference import InferenceRequest
from manyhats.serving.rollouts import Rollouts
from manyhats.serving.shadow import ShadowTraffic

from tests.registry.helpers import inspect, upload

SPLIT = [Target(1, 50), Target(2, 50)]
CANARY = Canary(2, max_error_rate=0.5, min_requests=2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path, inspect)
    opened.open()
    for content in ("one", "two", "three"):
        upload(opened, "spam", content)
    opened.set_alias("spam", "stable", SPLIT, Rollout(canary=CANARY))
    yield opened
    opened.close()


async def nobody(request: InferenceRequest) -> Any:
    raise AssertionError("no shadow is asked here")


def rollouts(registry: Registry, clock: Clock | None = None) -> Rollouts:
    shadows = ShadowTraffic(nobody, lambda: 0, random.Random(0))
    return Rollouts(registry, shadows, CapacityLimiter(1), clock or Clock())


def fail(one: Rollouts, registry: Registry, ref: str = "spam", version: int = 2) -> None:
    one.answered(InferenceRequest(ref), registry.task("spam").version(version), EngineFailure("x"))


def test_a_withdrawal_that_the_store_refuses_is_tried_again_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tried = Clock(), []
    one = rollouts(registry, clock)
    withdraw = registry.withdraw_canary

    def full(*given: Any) -> Any:
        tried.append(given)
        if len(tried) == 1:
            raise StorageFull("the store has no room")
        return withdraw(*given)

    monkeypatch.setattr(registry, "withdraw_canary", full)

    async def main() -> None:
        for _ in range(5):
            fail(one, registry)
        await one.stop()
        assert len(tried) == 1
        assert registry.task("spam").aliases["stable"] == tuple(SPLIT)
        clock.now += 10
        fail(one, registry)
        await one.stop()

    asyncio.run(main())
    assert registry.task("spam").aliases["stable"] == (Target(1, 50),)
    assert one.withdrawals == 1


def test_a_version_by_its_number_another_alias_and_what_the_caller_did_count_nothing(registry: Registry) -> None:
    one = rollouts(registry)
    registry.set_alias("spam", "other", [Target(2)])

    async def main() -> None:
        for ref in ("spam@2", "spam@other"):
            for _ in range(5):
                fail(one, registry, ref)
        for _ in range(5):
            one.answered(InferenceRequest("spam"), registry.task("spam").version(2), InvalidRequest("x"))
        await one.stop()

    asyncio.run(main())
    watch = one.watch(registry.task("spam"), "stable")
    assert watch is not None
    assert watch.canary is not None
    assert watch.canary.counts()[0].requests == 0
    assert one.withdrawals == 0


def test_counts_begin_anew_with_another_canary_and_stay_with_another_header(registry: Registry) -> None:
    one = rollouts(registry)
    fail(one, registry)

    def requests() -> int | None:
        watch = one.watch(registry.task("spam"), "stable")
        return None if watch is None or watch.canary is None else watch.canary.counts()[0].requests

    assert requests() == 1
    registry.set_alias("spam", "stable", SPLIT, Rollout("X-User", canary=CANARY))
    one.answered(InferenceRequest("spam"), registry.task("spam").version(2), InvalidRequest("x"))
    assert requests() == 1
    other = Canary(2, max_error_rate=0.9)
    registry.set_alias("spam", "stable", SPLIT, Rollout("X-User", canary=other))
    assert requests() is None
    fail(one, registry)
    assert requests() == 1


def test_the_alias_that_was_asked_longest_ago_is_forgotten_first(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WATCHED", 2)
    one = rollouts(registry)
    for alias in ("a", "b", "c"):
        registry.set_alias("spam", alias, [Target(1)], Rollout(shadow=Shadow(2, 0.001)))
    for alias in ("a", "b", "a", "c"):
        fail(one, registry, f"spam@{alias}", 1)
    assert [alias for _, alias, _ in one.watched()] == ["a", "c"]


def test_a_deleted_task_is_forgotten(registry: Registry) -> None:
    one = rollouts(registry)
    registry.subscribe(one.on_change)
    fail(one, registry)
    assert one.watched()
    registry.delete_task("spam")
    assert not one.watched()

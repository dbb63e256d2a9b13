"""Which adapters are loaded before the server is ready."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from manyhats.serving.preloading import preload

USUAL = gc.get_threshold()


class Loads:
    """An adapter cache and the pins of tasks; it notes what is asked of it, in order."""

    def __init__(self, slots: int = 100, slot_bytes: int = 1 << 30, damaged: Iterable[str] = ()) -> None:
        self.slot_limit = slots
        self.budget = SimpleNamespace(total=slot_bytes)
        self.asked: list[str] = []
        self.thresholds: set[tuple[int, int, int]] = set()
        self._damaged = set(damaged)

    def ensure_loaded(self, version: Any) -> Future[Any]:
        self.asked.append(version.ref)
        self.thresholds.add(gc.get_threshold())
        future: Future[Any] = Future()
        if version.ref in self._damaged:
            future.set_exception(ValueError("its files are damaged"))
        else:
            future.set_result(object())
        return future

    def pin(self, task: Any) -> list[tuple[Any, Future[Any]]]:
        return [(task.stable, self.ensure_loaded(task.stable))]


def task(name: str, *, pinned: bool = False, size: int = 10, empty: bool = False) -> Any:
    version = None if empty else SimpleNamespace(ref=name, info=SimpleNamespace(bytes=size))
    return SimpleNamespace(name=name, settings=SimpleNamespace(pinned=pinned), stable=version)


def run(loads: Loads, tasks: list[Any], count: int) -> list[str]:
    registry: Any = SimpleNamespace(all=lambda: tasks)
    preload(registry, loads, loads, count)  # type: ignore[arg-type]
    return loads.asked


def test_pinned_tasks_are_first_and_others_follow_by_name() -> None:
    tasks = [task("c"), task("a"), task("z", pinned=True), task("b"), task("none", empty=True)]
    assert run(Loads(), tasks, 3) == ["z", "a", "b"]


def test_all_pinned_tasks_are_loaded_however_few_are_to_be() -> None:
    tasks = [task("c"), task("a"), task("z", pinned=True), task("y", pinned=True)]
    assert run(Loads(), tasks, 0) == ["y", "z"]


def test_no_more_than_the_slots_take_and_half_their_memory() -> None:
    assert run(Loads(slots=2), [task(name) for name in "abcd"], 4) == ["a", "b"]
    assert run(Loads(slot_bytes=61), [task(name) for name in "abcd"], 4) == ["a", "b"]


def test_one_that_cannot_be_loaded_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(Loads(damaged=["a"]), [task("a"), task("b")], 2) == ["a", "b"]
    assert "the adapter a cannot be preloaded: its files are damaged" in caplog.text


def test_meanwhile_garbage_is_collected_seldom() -> None:
    loads = Loads()
    run(loads, [task("a")], 1)
    assert all(threshold[0] > USUAL[0] for threshold in loads.thresholds)
    assert gc.get_threshold() == USUAL

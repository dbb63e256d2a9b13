"""The watchdog, with parts of any kind; and the threads of an engine that die or hang."""

from __future__ import annotations

import threading
import time
from typing import Any

import manyhats.engine.detokenizer as detokenizer_module
import pytest
from manyhats.backbone import Backbone
from manyhats.engine.config import EngineConfig
from manyhats.engine.detokenizer import Detokenizer
from manyhats.engine.engine import Engine
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.watchdog import Part, Watchdog
from manyhats.errors import EngineFailure
from manyhats.methods.bound_adapter import BARE

from tests import engines
from tests.engine.running import BlockingRunner, Make, outputs
from tests.engines import one_pass
from tests.waiting import PATIENCE, wait_until

DIES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Thing:
    """A part that does what it is told."""

    def __init__(self) -> None:
        self.alive, self.since, self.revived = True, None, 0
        self.failure = ""
        self.part = Part("a thing", lambda: self.alive, lambda: self.since, self.revive, lambda: self.failure)

    def revive(self) -> None:
        self.revived += 1
        if self.revived > 1:
            self.alive = True


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def watchdog(thing: Thing) -> Any:
    one = Watchdog(stall_timeout=30.0, stall_limit=0.0)
    one.add(thing.part)
    one.start()
    yield one
    one.stop()


def test_what_has_died_is_revived_until_it_lives(watchdog: Watchdog, thing: Thing) -> None:
    assert watchdog.problem() is None
    thing.alive = False
    assert watchdog.problem() == "a thing has died"
    wait_until(lambda: thing.alive, "it is revived")
    assert thing.revived == 2
    assert watchdog.problem() is None
    assert watchdog.deaths == {"a thing": 1}
    assert not watchdog.stalls


def test_what_hangs_is_said_and_comes_back(watchdog: Watchdog, thing: Thing) -> None:
    thing.since = time.monotonic() - 31
    assert watchdog.problem() == "a thing hangs"
    assert not watchdog.is_well("a thing")
    wait_until(lambda: watchdog.stalls == {"a thing": 1}, "it is noticed")
    thing.since = None
    assert watchdog.problem() is None
    assert watchdog.is_well("a thing")
    assert thing.revived == 0


def test_what_fails_is_said_and_left_to_itself(watchdog: Watchdog, thing: Thing) -> None:
    thing.failure = "no folder"
    assert watchdog.problem() == "a thing fails: no folder"
    assert not watchdog.is_well("a thing")
    wait_until(lambda: watchdog.failures == {"a thing": 1}, "it is noticed")
    thing.failure = ""
    assert watchdog.problem() is None
    assert thing.revived == 0
    assert not watchdog.deaths
    assert not watchdog.stalls


def test_the_end_is_asked_for_once(thing: Thing) -> None:
    watchdog = Watchdog(stall_timeout=1.0, stall_limit=10.0)
    watchdog.add(thing.part)
    reasons: list[str] = []
    watchdog.on_fatal = reasons.append
    watchdog.start()
    try:
        thing.since = time.monotonic() - 5
        wait_until(lambda: watchdog.stalls, "it is noticed")
        assert not reasons
        thing.since = time.monotonic() - 11
        wait_until(lambda: reasons, "its end is asked for")
        before = watchdog.stalls.copy()
        watchdog._look(thing.part)
        assert len(reasons) == 1
        assert watchdog.stalls == before
    finally:
        watchdog.stop()
    assert "a thing has done one thing for 1" in reasons[0]


def test_an_error_of_one_part_is_no_others(watchdog: Watchdog, thing: Thing) -> None:
    def broken() -> None:
        raise RuntimeError("it cannot be revived")

    watchdog._parts.insert(0, Part("broken", lambda: False, lambda: None, broken))
    thing.alive = False
    wait_until(lambda: thing.alive, "the other is revived")
    assert watchdog.problem() == "broken has died"
    assert watchdog._thread is not None
    assert watchdog._thread.is_alive()


def test_what_dies_again_and_again_is_given_up(watchdog: Watchdog, thing: Thing) -> None:
    reasons: list[str] = []
    watchdog.on_fatal = reasons.append
    watchdog._parts.insert(0, Part("mortal", lambda: False, lambda: None, lambda: None))
    wait_until(lambda: reasons, "the end is asked for")
    wait_until(lambda: len(watchdog._revivals["mortal"]) == 10, "it is begun anew all the same")
    assert reasons == ["mortal has died 10 times within 60 s"]
    assert thing.revived == 0


# ---- an engine's threads


def watched(one: Engine, **limits: float) -> Watchdog:
    watchdog = Watchdog(**({"stall_timeout": PATIENCE, "stall_limit": 0.0} | limits))
    watchdog.add(Part("model", lambda: one.alive, lambda: one.busy_since, one.revive))
    detokenizer = one.detokenizer
    watchdog.add(Part("detokenizer", lambda: detokenizer.alive, lambda: detokenizer.busy_since, detokenizer.revive))
    watchdog.start()
    return watchdog


@DIES
def test_a_models_thread_that_dies_is_replaced_and_the_queue_is_answered(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(start=False)
    died: list[threading.Thread] = []
    recover, schedule = Engine._recover, Scheduler.schedule

    def dying(self: Engine, error: BaseException) -> Any:
        if not died:
            died.append(threading.current_thread())
            raise SystemExit("it dies while it recovers")
        return recover(self, error)

    def failing(self: Scheduler) -> Any:
        if not died:
            raise RuntimeError("the scheduler is broken")
        return schedule(self)

    monkeypatch.setattr(Engine, "_recover", dying)
    monkeypatch.setattr(Scheduler, "schedule", failing)
    queued = [one_pass(bert, BARE, ["w1 w2"], f"t{i}") for i in range(5)]
    one.submit(queued)
    watchdog = watched(one)
    try:
        one.start()
        for request in queued:
            assert outputs(request)
        wait_until(lambda: watchdog.deaths["model"] == 1, "its death is noticed")
        wait_until(lambda: one.healthy and watchdog.problem() is None, "it is well")
        assert not died[0].is_alive()
        assert one.restarts == 1
    finally:
        watchdog.stop()


def test_a_pass_that_hangs_is_noticed(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    one = engine()
    watchdog = watched(one, stall_timeout=0.3)
    try:
        request = one_pass(bert, BARE, ["w1"])
        one.submit([request])
        wait_until(lambda: watchdog.problem() == "model hangs", "it is noticed")
        wait_until(lambda: watchdog.stalls["model"] == 1, "it is counted")
        blocked.proceed.set()
        assert outputs(request)
        wait_until(lambda: watchdog.problem() is None, "it is well again")
        assert one.busy_since is None
    finally:
        watchdog.stop()


def test_an_idle_engine_does_not_hang(bert: Backbone, engine: Make) -> None:
    one = engine()
    request = one_pass(bert, BARE, ["w1"])
    one.submit([request])
    outputs(request)
    wait_until(lambda: one.busy_since is None, "it waits")
    assert one.alive
    one.stop(PATIENCE)
    assert one.alive  # it has nothing more to do
    one.revive()
    assert not one._thread.is_alive()


@DIES
def test_a_detokenizer_that_dies_fails_its_step_alone(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("llama")
    one = Engine(backbone, EngineConfig(512, 16, 1 << 22))
    step, left = Detokenizer.step, [True]

    def dying(self: Detokenizer) -> bool:
        if left:
            self._pop()
            left.clear()
            raise SystemExit("it dies")
        return step(self)

    monkeypatch.setattr(Detokenizer, "step", dying)
    watchdog = watched(one)
    try:
        first = engines.generation(backbone, "a", BARE, [5, 6, 7], new=4)
        one.submit([first])
        one.start()
        assert isinstance(first.future.exception(PATIENCE), EngineFailure)
        assert watchdog.deaths["detokenizer"] == 1
        second = engines.generation(backbone, "a", BARE, [5, 6, 7], new=4)
        one.submit([second])
        second.future.result(PATIENCE)
        assert len(engines.tokens(second)) == 4
        assert one.detokenizer.failures == 1
        assert one.restarts == 0
    finally:
        watchdog.stop()
        one.stop(PATIENCE)


def test_a_detokenizer_that_hangs_is_noticed(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("llama")
    one = Engine(backbone, EngineConfig(512, 16, 1 << 22))
    proceed, advance = threading.Event(), detokenizer_module._advance
    monkeypatch.setattr(detokenizer_module, "_advance", lambda output: (proceed.wait(PATIENCE), advance(output)))
    watchdog = watched(one, stall_timeout=0.3)
    try:
        request = engines.generation(backbone, "a", BARE, [5, 6, 7], new=4)
        one.submit([request])
        one.start()
        wait_until(lambda: watchdog.problem() == "detokenizer hangs", "it is noticed")
        proceed.set()
        request.future.result(PATIENCE)
        wait_until(lambda: watchdog.problem() is None, "it is well again")
    finally:
        proceed.set()
        watchdog.stop()
        one.stop(PATIENCE)


@DIES
def test_a_thread_that_dies_while_the_engine_stops_leaves_nobody_waiting(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(start=False)

    def dying(*_: Any) -> Any:
        raise SystemExit("it dies")

    monkeypatch.setattr(Engine, "_recover", dying)
    monkeypatch.setattr(Runner, "execute", dying)
    request = one_pass(bert, BARE, ["w1"])
    one.submit([request])
    one.start()
    wait_until(lambda: not one._thread.is_alive(), "it has died")
    assert one.stop(PATIENCE)
    assert request.future.exception(PATIENCE) is not None

"""Cancelling requests, and stopping the engine."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import manyhats.engine.engine as engine_module
import pytest
from manyhats.backbone import Backbone
from manyhats.core.sequence import Request
from manyhats.errors import NotReady
from manyhats.methods.bound_adapter import BARE

from tests import engines
from tests.engine.running import BlockingRunner, Make, outputs
from tests.engines import one_pass
from tests.waiting import PATIENCE, wait_until

# ---- cancelling


def test_cancelled_sequences_leave_the_queue_and_are_never_computed(
    bert: Backbone, engine: Make, blocked: BlockingRunner
) -> None:
    one = engine()
    running, gone, stays = (one_pass(bert, BARE, ["w1"] * n, f"t{n}") for n in (1, 2, 3))
    one.submit([running])
    assert blocked.entered.wait(PATIENCE)
    one.submit([gone, stays])
    assert one.waiting() == {"t2": 2, "t3": 3}
    one.cancel(gone)
    assert one.waiting() == {"t3": 3}
    blocked.proceed.set()
    assert len(outputs(stays)) == 3
    assert blocked.sequences == [1, 3]
    with pytest.raises(CancelledError):
        gone.future.result(PATIENCE)


def test_a_request_that_is_cancelled_while_it_runs(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    one = engine()
    running, other = one_pass(bert, BARE, ["w1"], "a"), one_pass(bert, BARE, ["w1"], "b")
    one.submit([running, other])
    assert blocked.entered.wait(PATIENCE)
    one.cancel(running)
    blocked.proceed.set()
    assert len(outputs(other)) == 1
    assert running.future.cancelled()
    one.cancel(other)  # after the answer it does nothing
    assert other.future.done()


def test_cancelling_from_many_threads_loses_nobody_elses_sequences(bert: Backbone, engine: Make) -> None:
    one = engine(tokens=30)
    requests = [one_pass(bert, BARE, ["w1 w2"] * 4, f"t{i % 3}") for i in range(40)]

    def submit_and_cancel(mine: list[Request]) -> None:
        for i, each in enumerate(mine):
            one.submit([each])
            if i % 2:
                one.cancel(each)

    threads = [threading.Thread(target=submit_and_cancel, args=(requests[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in (requests[i::4] for i in range(4)):
        for i, each in enumerate(part):
            if not i % 2:
                assert len(outputs(each)) == 4
            else:
                assert each.future.cancelled() or len(outputs(each)) == 4
    assert one.waiting() == {}


# ---- stopping


def test_stop_lets_the_queue_run_empty(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    one = engine(tokens=10)
    requests = [one_pass(bert, BARE, ["w1 w2"] * 5, f"t{i}") for i in range(3)]
    one.submit(requests)
    assert blocked.entered.wait(PATIENCE)
    stopping = threading.Thread(target=one.stop, args=(PATIENCE,))
    stopping.start()
    blocked.proceed.set()
    stopping.join()
    for each in requests:
        each.future.result(0)
        assert len(outputs(each)) == 5
    with pytest.raises(NotReady):
        one.submit([one_pass(bert, BARE, ["w1"])])


def test_requests_that_do_not_finish_in_time_fail(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    """The pass under way is waited for all the same: nothing is taken away beneath it."""
    one = engine()
    running, queued = one_pass(bert, BARE, ["w1"]), one_pass(bert, BARE, ["w1"])
    one.submit([running])
    assert blocked.entered.wait(PATIENCE)
    one.submit([queued])
    ended: list[bool] = []
    stopping = threading.Thread(target=lambda: ended.append(one.stop(0.01)))
    stopping.start()
    with pytest.raises(NotReady):
        queued.future.result(PATIENCE)
    assert not ended
    blocked.proceed.set()
    assert outputs(running)
    stopping.join(PATIENCE)
    assert ended == [True]
    assert blocked.sequences == [1]


def test_generations_that_do_not_finish_in_time_fail(load_backbone: Any, engine: Make, blocked: BlockingRunner) -> None:
    backbone = load_backbone("llama")
    one = engine(backbone)
    request = engines.generation(backbone, "a", BARE, [1, 2], new=50)
    one.submit([request])
    assert blocked.entered.wait(PATIENCE)
    stopping = threading.Thread(target=one.stop, args=(0.01,))
    stopping.start()
    wait_until(lambda: one._aborting, "its time is over")
    blocked.proceed.set()
    stopping.join(PATIENCE)
    with pytest.raises(NotReady, match="shutting down"):
        request.future.result(0)
    assert blocked.sequences == [1]


def test_stop_returns_false_where_a_pass_does_not_end(
    bert: Backbone, engine: Make, blocked: BlockingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_LAST_BATCH_TIMEOUT", 0.01)
    one = engine()
    one.submit([one_pass(bert, BARE, ["w1"])])
    assert blocked.entered.wait(PATIENCE)
    assert one.stop(0.01) is False
    blocked.proceed.set()


def test_an_engine_that_was_never_started_stops(bert: Backbone, engine: Make) -> None:
    one = engine(start=False)
    request = one_pass(bert, BARE, ["w1"])
    one.submit([request])
    assert one.stop(PATIENCE)
    with pytest.raises(NotReady):
        request.future.result(0)

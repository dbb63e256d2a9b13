"""The model's thread: answers, faults, cancelling, stopping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import manyhats.engine.engine as engine_module
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.engine import Engine
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.work import BatchReport, Work
from manyhats.errors import NotReady, Overloaded
from manyhats.methods.adapter import BARE, BoundAdapter

from tests import tiny

PATIENCE = 60.0
Make = Callable[..., Engine]


@pytest.fixture
def engine(bert: Backbone) -> Iterator[Make]:
    """Makes engines, started or not, and stops them at the end."""
    made: list[Engine] = []

    def make(*, start: bool = True, tokens: int = 2048, limit: int = 1000) -> Engine:
        one = Engine(bert, Scheduler(batch_tokens=tokens, task_limit=limit, total_limit=limit))
        if start:
            one.start()
            made.append(one)
        return one

    yield make
    for one in made:
        one.stop(PATIENCE)


def work(backbone: Backbone, adapter: BoundAdapter, texts: list[str], task: str = "t") -> Work:
    return Work(task=task, rows=[tiny.row(backbone, adapter, text, "mean") for text in texts])


def adapters(backbone: Backbone, count: int = 4) -> list[BoundAdapter]:
    methods = ("lora", "prefix", "bottleneck", "mask")
    return [
        tiny.adapter(backbone, methods[i % 4], i, kind="classify", labels=i + 2).bind(backbone) for i in range(count)
    ]


def close(outputs: Any, expected: list[torch.Tensor]) -> bool:
    return tiny.difference([torch.tensor(output) for output in outputs], expected) < tiny.CLOSE


class Held:
    """A forward that waits."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.rows: list[int] = []
        self._forward = engine_module.forward

    def __call__(self, backbone: Backbone, rows: Any) -> Any:
        self.rows.append(len(rows))
        self.entered.set()
        assert self.go.wait(PATIENCE)
        return self._forward(backbone, rows)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Holds every batch."""
    one = Held()
    monkeypatch.setattr(engine_module, "forward", one)
    yield one
    one.go.set()


def test_works_of_many_adapters_share_a_batch_and_get_their_own_answers(bert, engine):
    texts = tiny.texts([3, 7, 1])
    worn = [*adapters(bert), BARE]
    expected = [tiny.alone(bert, adapter, texts, "mean") for adapter in worn]
    one = engine(start=False)
    reports: list[BatchReport] = []
    one.on_batch = reports.append
    works = [work(bert, adapter, texts, f"t{i}") for i, adapter in enumerate(worn)]
    one.submit(works)
    one.start()
    for each, right in zip(works, expected, strict=True):
        assert close(each.future.result(PATIENCE), right)
    one.stop(PATIENCE)
    (report,) = reports
    assert report.tasks == {f"t{i}": 3 for i in range(5)}
    assert report.methods == ("base", "bottleneck", "lora", "mask", "prefix")
    assert (report.sequences, report.tokens) == (15, 5 * (3 + 7 + 1 + 6))
    assert all(each.batch is report and each.started and each.compute == report.seconds for each in works)


def test_a_work_larger_than_a_batch_is_answered_in_order(bert, engine):
    texts = tiny.texts([5] * 20)
    one = engine(tokens=15)
    each = work(bert, BARE, texts)
    one.submit([each])
    assert close(each.future.result(PATIENCE), tiny.ask(bert, None, texts, "mean"))


@pytest.mark.parametrize("broken", range(5))
def test_a_fault_of_one_adapter_fails_its_rows_alone(bert, engine, monkeypatch, broken):
    texts = tiny.texts([3, 4])
    worn = [*adapters(bert), BARE]
    expected = [tiny.alone(bert, adapter, texts, "mean") for adapter in worn]
    forward = engine_module.forward

    def failing(backbone: Backbone, rows: Any) -> Any:
        if any(row.adapter is worn[broken] for row in rows):
            raise RuntimeError("broken")
        return forward(backbone, rows)

    monkeypatch.setattr(engine_module, "forward", failing)
    one = engine(start=False)
    works = [work(bert, adapter, texts, f"t{i}") for i, adapter in enumerate(worn)]
    twin = work(bert, worn[broken], texts, "twin")
    one.submit([*works, twin])
    one.start()
    for i, (each, right) in enumerate(zip(works, expected, strict=True)):
        if i == broken:
            with pytest.raises(RuntimeError, match="broken"):
                each.future.result(PATIENCE)
        else:
            assert close(each.future.result(PATIENCE), right)
    assert isinstance(twin.future.exception(PATIENCE), RuntimeError)
    monkeypatch.undo()
    again = work(bert, worn[broken], texts)
    one.submit([again])
    assert close(again.future.result(PATIENCE), expected[broken])
    one.stop(PATIENCE)


def test_a_real_fault_inside_an_adapter_leaves_the_backbone_fit(bert, engine):
    good = adapters(bert, 1)[0]
    bad = tiny.adapter(bert, "lora", 9).bind(bert)
    tiny.spoil(bad, lambda pair: pair.down.resize_(1, 1))
    texts = tiny.texts([3])
    expected = tiny.alone(bert, good, texts)
    one = engine(start=False)
    works = [work(bert, good, texts, "good"), work(bert, bad, texts, "bad")]
    one.submit(works)
    one.start()
    assert works[1].future.exception(PATIENCE) is not None
    assert close(works[0].future.result(PATIENCE), expected)
    one.stop(PATIENCE)
    assert tiny.difference(tiny.alone(bert, good, texts), expected) < tiny.CLOSE


def test_a_fault_outside_the_model_does_not_end_the_thread(bert, engine):
    one = engine(start=False)
    calls: list[int] = []

    def listener(report: BatchReport) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("listener")

    one.on_batch = listener
    first = work(bert, BARE, ["w1"])
    one.submit([first])
    one.start()
    assert isinstance(first.future.exception(PATIENCE), RuntimeError)
    second = work(bert, BARE, ["w1"])
    one.submit([second])
    assert second.future.result(PATIENCE)
    one.stop(PATIENCE)


def test_cancelled_rows_leave_the_queue_and_are_never_computed(bert, engine, held):
    one = engine()
    running, gone, stays = (work(bert, BARE, ["w1"] * n, f"t{n}") for n in (1, 2, 3))
    one.submit([running])
    assert held.entered.wait(PATIENCE)
    one.submit([gone, stays])
    assert one.waiting() == {"t2": 2, "t3": 3}
    one.cancel(gone)
    assert one.waiting() == {"t3": 3}
    held.go.set()
    assert len(stays.future.result(PATIENCE)) == 3
    assert held.rows == [1, 3]
    with pytest.raises(CancelledError):
        gone.future.result(PATIENCE)


def test_a_work_that_is_cancelled_while_it_runs(bert, engine, held):
    one = engine()
    running, other = work(bert, BARE, ["w1"], "a"), work(bert, BARE, ["w1"], "b")
    one.submit([running, other])
    assert held.entered.wait(PATIENCE)
    one.cancel(running)
    held.go.set()
    assert len(other.future.result(PATIENCE)) == 1
    assert running.future.cancelled()
    one.cancel(other)  # after the answer it does nothing
    assert other.future.done()


def test_cancelling_from_many_threads_loses_nobody_elses_rows(bert, engine):
    one = engine(tokens=30)
    works = [work(bert, BARE, ["w1 w2"] * 4, f"t{i % 3}") for i in range(40)]

    def go(mine: list[Work]) -> None:
        for i, each in enumerate(mine):
            one.submit([each])
            if i % 2:
                one.cancel(each)

    threads = [threading.Thread(target=go, args=(works[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in (works[i::4] for i in range(4)):
        for i, each in enumerate(part):
            if not i % 2:
                assert len(each.future.result(PATIENCE)) == 4
            else:
                assert each.future.cancelled() or len(each.future.result(PATIENCE)) == 4
    assert one.waiting() == {}


def test_stop_lets_the_queue_run_empty(bert, engine, held):
    one = engine(tokens=10)
    works = [work(bert, BARE, ["w1 w2"] * 5, f"t{i}") for i in range(3)]
    one.submit(works)
    assert held.entered.wait(PATIENCE)
    stopping = threading.Thread(target=one.stop, args=(PATIENCE,))
    stopping.start()
    held.go.set()
    stopping.join()
    assert all(len(each.future.result(0)) == 5 for each in works)
    with pytest.raises(NotReady):
        one.submit([work(bert, BARE, ["w1"])])


def test_what_does_not_finish_in_time_is_told(bert, engine, held):
    one = engine()
    running, queued = work(bert, BARE, ["w1"]), work(bert, BARE, ["w1"])
    one.submit([running])
    assert held.entered.wait(PATIENCE)
    one.submit([queued])
    one.stop(0.01)
    with pytest.raises(NotReady):
        queued.future.result(PATIENCE)
    held.go.set()
    assert running.future.result(PATIENCE)


def test_a_full_queue_takes_all_or_nothing(bert, engine, held):
    one = engine(limit=4)
    one.submit([work(bert, BARE, ["w1"])])
    assert held.entered.wait(PATIENCE)
    one.submit([work(bert, BARE, ["w1"] * 3, "a")])
    with pytest.raises(Overloaded):
        one.submit([work(bert, BARE, ["w1"], "b"), work(bert, BARE, ["w1"], "c")])
    assert one.waiting() == {"a": 3}

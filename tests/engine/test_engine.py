"""The engine: what shares a batch, and what happens beside the model's thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.core.report import BatchReport
from manyhats.core.sequence import Request
from manyhats.errors import Overloaded
from manyhats.methods.bound_adapter import BARE

from tests import engines, tiny
from tests.engine.running import BlockingRunner, Make, adapters, close, outputs
from tests.engines import one_pass
from tests.waiting import PATIENCE


def test_requests_of_many_adapters_share_a_batch_and_get_their_own_answers(bert: Backbone, engine: Make) -> None:
    texts = tiny.texts([3, 7, 1])
    bound = [*adapters(bert), BARE]
    expected = [tiny.alone(bert, adapter, texts, "mean") for adapter in bound]
    one = engine(start=False)
    reports: list[BatchReport] = []
    one.runner.on_batch = reports.append
    requests = [one_pass(bert, adapter, texts, f"t{i}") for i, adapter in enumerate(bound)]
    one.submit(requests)
    one.start()
    for each, right in zip(requests, expected, strict=True):
        assert close(outputs(each), right)
    one.stop(PATIENCE)
    (report,) = reports
    assert report.tasks == {f"t{i}": 3 for i in range(5)}
    assert report.methods == ("base", "bottleneck", "lora", "mask", "prefix")
    assert (report.sequences, report.tokens) == (15, 5 * (3 + 7 + 1 + 6))
    assert all(each.batch is report and each.started and each.compute == report.seconds for each in requests)


def test_a_batch_takes_the_lock_as_often_as_one_request(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    original = threading.Condition.__enter__
    one = engine(start=False)
    one._condition.__class__ = type("Counted", (threading.Condition,), {})
    monkeypatch.setattr(
        type(one._condition), "__enter__", lambda self: (taken.append("lock"), original(self))[1], raising=False
    )
    counts = []
    for amount in (1, 16):
        requests = [one_pass(bert, BARE, tiny.texts([3])) for _ in range(amount)]
        one.submit(requests)
        taken.clear()
        assert one.step()
        assert all(request.future.done() for request in requests)
        counts.append(len(taken))
    assert counts[0] == counts[1]
    assert one.waiting() == {}
    assert not one._unfinished


def test_a_request_larger_than_a_batch_is_answered_in_order(bert: Backbone, engine: Make) -> None:
    texts = tiny.texts([5] * 20)
    one = engine(tokens=15)
    each = one_pass(bert, BARE, texts)
    one.submit([each])
    assert close(outputs(each), tiny.ask(bert, None, texts, "mean"))


def test_one_pass_prefill_and_decode_in_one_batch(load_backbone: Any) -> None:
    """On a decoder; each gets what it gets alone."""
    backbone = load_backbone("llama")
    lora = tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone)
    prefix = tiny.adapter(backbone, "prefix", 2).bind(backbone)
    texts = tiny.texts([3, 9, 6])
    expected = tiny.alone(backbone, prefix, texts, "mean")

    def generations() -> list[Request]:
        return [
            engines.generation(backbone, "lora", lora, [5, 6, 7], new=8),
            engines.generation(backbone, "prefix", prefix, [*range(10, 50)], new=4),
        ]

    alone = generations()
    for request in alone:
        engines.run(engines.engine(backbone), [request])
    one = engines.engine(backbone, tokens=64)
    first, second = generations()
    one.submit([first])
    assert one.step()
    embedded = one_pass(backbone, prefix, texts, "embed")
    reports: list[BatchReport] = []
    one.runner.on_batch = reports.append
    engines.run(one, [second, embedded])
    assert reports[0].tasks == {"lora": 1, "prefix": 1, "embed": 3}
    assert [engines.tokens(request) for request in (first, second)] == [engines.tokens(request) for request in alone]
    assert close(outputs(embedded), expected)


# ---- beside the model's thread


def test_no_lock_is_held_while_the_model_works(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    """Who asks, cancels or counts while a pass is under way comes through at once."""
    one = engine()
    one.submit([one_pass(bert, BARE, ["w1"])])
    assert blocked.entered.wait(PATIENCE)
    assert one._condition.acquire(blocking=False)
    one._condition.release()
    other = one_pass(bert, BARE, ["w1"], "other")
    one.submit([other])
    assert one.waiting() == {"other": 1}
    one.cancel(other)


def test_hashes_are_made_under_no_lock(load_backbone: Any, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import manyhats.engine.kv_cache as cache_module

    backbone = load_backbone("llama")
    one = engine(backbone, start=False)
    lock = threading.Lock()
    monkeypatch.setattr(one, "_condition", threading.Condition(lock))
    locked: list[bool] = []
    chained = cache_module.chained_hash

    def watched(*given: Any) -> bytes:
        locked.append(lock.locked())
        return chained(*given)

    monkeypatch.setattr(cache_module, "chained_hash", watched)
    one.submit([engines.generation(backbone, "a", BARE, [*range(40)], new=1)])
    assert not locked
    assert one.step()
    assert locked
    assert not any(locked)


def test_a_full_queue_takes_all_or_nothing(bert: Backbone, engine: Make, blocked: BlockingRunner) -> None:
    one = engine(limit=4)
    one.submit([one_pass(bert, BARE, ["w1"])])
    assert blocked.entered.wait(PATIENCE)
    one.submit([one_pass(bert, BARE, ["w1"] * 3, "a")])
    with pytest.raises(Overloaded):
        one.submit([one_pass(bert, BARE, ["w1"], "b"), one_pass(bert, BARE, ["w1"], "c")])
    assert one.waiting() == {"a": 3}

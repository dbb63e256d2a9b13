"""Requests that run alone: one sequence a batch, nothing found in the cache, and fair turns beside the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.report import BatchReport
from manyhats.core.sequence import Lane, Request
from manyhats.engine.engine import Engine
from manyhats.engine.kv_cache import BLOCK
from manyhats.methods.bound_adapter import BARE

from tests import engines, tiny
from tests.engines import one_pass

Load = Callable[[str], Backbone]


def reported(one: Engine) -> list[BatchReport]:
    reports: list[BatchReport] = []
    one.runner.on_batch = reports.append
    return reports


def in_lane(request: Request, lane: Lane) -> Request:
    request.lane = lane
    return request


@pytest.mark.parametrize("lane", ["alone", "verification"])
def test_one_sequence_a_batch(load_backbone: Load, lane: Lane) -> None:
    backbone = load_backbone("llama")
    lora = tiny.adapter(backbone, "lora", 1, kind="generate").bind(backbone)
    texts = tiny.texts([3, 9, 6])
    expected = engines.generation(backbone, "g", lora, [5, 6, 7], new=5)
    engines.run(engines.engine(backbone), [expected])
    one = engines.engine(backbone)
    reports = reported(one)
    passes = in_lane(one_pass(backbone, BARE, texts, "p"), lane)
    text = in_lane(engines.generation(backbone, "g", lora, [5, 6, 7], new=5), lane)
    twice = in_lane(engines.generation(backbone, "g", lora, [5, 6, 7], new=5, n=2), lane)
    engines.run(one, [passes, text, twice])
    assert [report.sequences for report in reports] == [1] * (3 + 5 + 10)
    found = [torch.tensor(sequence.pooled) for sequence in passes.sequences]
    assert tiny.difference(found, tiny.alone(backbone, BARE, texts, "mean")) < tiny.CLOSE
    assert engines.tokens(text) == engines.tokens(expected)
    assert one.lanes.idle
    assert one.waiting() == {}


def test_what_runs_alone_neither_finds_nor_leaves_blocks(load_backbone: Load) -> None:
    backbone = load_backbone("llama")
    prompt = list(range(4, 4 + 3 * BLOCK))
    one = engines.engine(backbone)
    assert one.cache is not None
    for lane in ("alone", "shared", "verification", "alone"):
        engines.run(one, [in_lane(engines.generation(backbone, "t", BARE, prompt), lane)])
        assert one.cache.reused == 0
    engines.run(one, [engines.generation(backbone, "t", BARE, prompt)])
    assert one.cache.reused > 0


def test_an_isolated_adapter_shares_no_batch(bert: Backbone) -> None:
    one = engines.engine(bert)
    reports = reported(one)
    one.lanes.isolated = frozenset({"odd"})
    requests = [one_pass(bert, BARE, tiny.texts([3, 4]), f"t{i}") for i in range(4)]
    odd = one_pass(bert, BARE, tiny.texts([3, 4]), "odd", digest="odd")
    engines.step_all(one, [*requests, odd])
    assert sorted(report.sequences for report in reports) == [1, 1, 8]
    assert all(report.tasks == {"odd": 1} for report in reports if report.sequences == 1)
    one.lanes.isolated = frozenset()
    engines.step_all(one, [one_pass(bert, BARE, ["w1"], "odd", digest="odd"), one_pass(bert, BARE, ["w1"], "t")])
    assert reports[-1].tasks == {"odd": 1, "t": 1}


def test_turns(bert: Backbone) -> None:
    """While all wait: every second step for what runs alone, every twentieth to verify; and none waits for ever."""
    one = engines.engine(bert, tokens=8)
    reports = reported(one)
    work: list[Request] = [one_pass(bert, BARE, tiny.texts([6] * 60), "many")]
    work += [in_lane(one_pass(bert, BARE, tiny.texts([6] * 60), "odd"), "alone")]
    work += [in_lane(one_pass(bert, BARE, tiny.texts([6] * 60), "check"), "verification")]
    engines.step_all(one, work)
    order = [next(iter(report.tasks)) for report in reports]
    assert len(order) == 180
    first = order[:100]
    assert first.count("check") == 5
    assert 45 <= first.count("odd") <= 50
    assert 45 <= first.count("many") <= 50


def test_cancelled_and_failing_requests_leave_nothing(load_backbone: Load, monkeypatch: Any) -> None:
    backbone = load_backbone("llama")
    one = engines.engine(backbone)
    lanes: tuple[Lane, ...] = ("alone", "verification")
    requests = [in_lane(engines.generation(backbone, "t", BARE, [4, 5], new=50), lane) for lane in lanes]
    one.submit(requests)
    for _ in range(6):
        one.step()
    for request in requests:
        one.cancel(request)
    while one.step():
        pass
    assert one.lanes.idle
    assert one.cache is not None
    assert one.cache.pool.used == 0
    requests = [in_lane(engines.generation(backbone, "t", BARE, [4, 5], new=50), lane) for lane in lanes]
    one.submit(requests)
    for _ in range(25):
        one.step()
    assert one._recover(RuntimeError("broken")) is None
    assert all(request.future.exception(0) is not None for request in requests)
    assert one.lanes.idle
    assert one.waiting() == {}

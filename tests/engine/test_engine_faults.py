"""Faults: of a batch, which fail one sequence, and outside a batch, which restart the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import manyhats.engine.engine as engine_module
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.batch import SequenceOutput
from manyhats.core.report import BatchReport
from manyhats.core.sequence import Request
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.errors import AdapterFailure, EngineFailure, NotReady
from manyhats.methods.bound_adapter import BARE

from tests import engines, tiny
from tests.engine.running import Make, adapters, close, outputs
from tests.engines import one_pass
from tests.waiting import PATIENCE, wait_until

# ---- faults of a batch


class Broken:
    """A pass that fails where a sequence is in it that may not be; counts the passes."""

    def __init__(self, breaks: Callable[[Any], bool]) -> None:
        self.breaks = breaks
        self.passes: list[int] = []
        self._run = Runner._run

    def __call__(self, runner: Runner, entries: Any) -> list[SequenceOutput]:
        self.passes.append(len(entries))
        if any(self.breaks(entry.sequence) for entry in entries):
            raise RuntimeError("broken")
        return self._run(runner, entries)

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Runner, "_run", lambda *given: self(*given))


@pytest.mark.parametrize("broken", range(5))
def test_a_fault_of_one_adapter_fails_its_sequences_alone(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    texts = tiny.texts([3, 4])
    bound = [*adapters(bert), BARE]
    expected = [tiny.alone(bert, adapter, texts, "mean") for adapter in bound]
    Broken(lambda sequence: sequence.adapter is bound[broken]).put_in(monkeypatch)
    one = engine(start=False)
    requests = [one_pass(bert, adapter, texts, f"t{i}") for i, adapter in enumerate(bound)]
    twin = one_pass(bert, bound[broken], texts, "twin")
    one.submit([*requests, twin])
    one.start()
    for i, (each, right) in enumerate(zip(requests, expected, strict=True)):
        if i == broken:
            with pytest.raises(AdapterFailure, match=f"the adapter of the task t{i} failed") as failure:
                each.future.result(PATIENCE)
            assert str(failure.value.__cause__) == "broken"
        else:
            assert close(outputs(each), right)
    assert isinstance(twin.future.exception(PATIENCE), AdapterFailure)
    monkeypatch.undo()
    again = one_pass(bert, bound[broken], texts)
    one.submit([again])
    assert close(outputs(again), expected[broken])
    assert (one.restarts, one.failed, one.healthy) == (0, 4, True)


def test_a_failing_batch_is_halved_until_the_culprit_is_alone(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(start=False)
    requests = [one_pass(bert, BARE, ["w1 w2"], f"t{i}") for i in range(8)]
    broken = Broken(lambda sequence: sequence.request is requests[5])
    broken.put_in(monkeypatch)
    reports: list[BatchReport] = []
    one.runner.on_batch = reports.append
    one.submit(requests)
    assert one.step()
    assert broken.passes == [8, 4, 4, 2, 1, 1, 2]
    assert [report.sequences for report in reports] == [4, 1, 2]
    assert [request.future.exception(0) is None for request in requests] == [i != 5 for i in range(8)]


def test_values_that_are_not_finite_fail_their_own_sequence(bert: Backbone, engine: Make) -> None:
    bad = tiny.adapter(bert, "lora", 2, kind="classify").bind(bert)
    with torch.inference_mode():
        bad.head.layers[-1].weight.fill_(float("nan"))
    one = engine(start=False)
    fine, faulty = one_pass(bert, BARE, ["w1"], "fine"), one_pass(bert, bad, ["w1"], "faulty")
    one.submit([fine, faulty])
    assert one.step()
    assert fine.future.result(0) is None
    with pytest.raises(EngineFailure, match="the task faulty gives values that are not finite"):
        faulty.future.result(0)


def test_a_seeded_text_is_the_same_beside_a_fault(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sampled again without the culprit is sampled from the same random numbers."""
    import manyhats.engine.token_sampling as sampling_module

    backbone = load_backbone("llama")

    def generations() -> list[Request]:
        sampled = [
            engines.generation(backbone, f"t{i}", BARE, [5, 6 + i], new=6, temperature=2.0, seed=i, top_p=p)
            for i, p in enumerate((0.9, 1.0, 1.0))
        ]
        return [*sampled, engines.generation(backbone, "bad", BARE, [3], new=6, temperature=2.0, seed=9, top_k=77)]

    alone = generations()[:3]
    for request in alone:
        engines.run(engines.engine(backbone), [request])
    layout_of = sampling_module.layout_of
    sample = sampling_module.sample_staged
    spoiled: set[int] = set()

    def noting(inputs: Any, *given: Any) -> Any:
        layout = layout_of(inputs, *given)
        if any(one.params.top_k == 77 for one in inputs):
            spoiled.add(id(layout))
        return layout

    def breaking(logits: Any, layout: Any, staging: Any) -> Any:
        found = sample(logits, layout, staging)
        if id(layout) in spoiled:
            raise RuntimeError("broken")
        return found

    monkeypatch.setattr(sampling_module, "layout_of", noting)
    monkeypatch.setattr(sampling_module, "sample_staged", breaking)
    together = generations()
    engines.step_all(engines.engine(backbone), together)
    assert isinstance(together[3].future.exception(0), AdapterFailure)
    assert [engines.tokens(request) for request in together[:3]] == [engines.tokens(request) for request in alone]


def test_a_real_fault_inside_an_adapter_leaves_the_backbone_fit(bert: Backbone, engine: Make) -> None:
    good = adapters(bert, 1)[0]
    bad = tiny.adapter(bert, "lora", 9).bind(bert)
    tiny.spoil(bad, lambda pair: pair.down.resize_(1, 1))
    texts = tiny.texts([3])
    expected = tiny.alone(bert, good, texts)
    one = engine(start=False)
    requests = [one_pass(bert, good, texts, "good"), one_pass(bert, bad, texts, "bad")]
    one.submit(requests)
    one.start()
    assert requests[1].future.exception(PATIENCE) is not None
    assert close(outputs(requests[0]), expected)
    one.stop(PATIENCE)
    assert tiny.difference(tiny.alone(bert, good, texts), expected) < tiny.CLOSE


# ---- faults outside a batch


class FailsOnce:
    """A method that raises at its first calls, and then does what it is there for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int = 1) -> None:
        self.left = times
        method = getattr(owner, name)

        def call(*given: Any) -> Any:
            if self.left:
                self.left -= 1
                raise RuntimeError(f"{name} is broken")
            return method(*given)

        monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Scheduler, "schedule"),
        (Scheduler, "add"),
        (Scheduler, "update"),
        (Runner, "execute"),
        (engines.AtOnce, "put"),
        (Runner, "_report"),
    ],
)
def test_an_error_outside_a_batch_fails_only_the_running_requests(
    load_backbone: Any, engine: Make, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """What waits is answered by the restarted loop, and the cache is empty."""
    backbone = load_backbone("llama")
    one = engine(backbone, start=False)
    seen: list[bool] = []
    recover = one._recover

    def watched(error: BaseException) -> str | None:
        seen.append(one.healthy)
        return recover(error)

    monkeypatch.setattr(one, "_recover", watched)
    FailsOnce(monkeypatch, owner, name)
    first = [
        engines.generation(backbone, "a", BARE, [5, 6, 7], new=4),
        one_pass(backbone, BARE, ["w1 w2"], "b"),
    ]
    one.submit(first)
    one.start()
    wait_until(lambda: seen, "the loop has failed")
    second = [
        engines.generation(backbone, "a", BARE, [5, 6, 7], new=4),
        one_pass(backbone, BARE, ["w1 w2"], "b"),
    ]
    one.submit(second)
    for request in second:
        request.future.result(PATIENCE)
    for request in first:
        error = request.future.exception(PATIENCE)
        assert error is None or isinstance(error, EngineFailure)
    if name != "schedule":
        assert any(request.future.exception(0) is not None for request in first)
    assert seen == [False]
    assert one.restarts == 1
    wait_until(lambda: one.healthy, "it is healthy again")
    wait_until(lambda: one.scheduler.idle, "nothing is left")
    assert one.cache is not None
    assert one.cache.pool.used == 0
    assert one.waiting() == {}


def test_a_lost_device_is_no_sequences_fault(bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass is tried again on it: the engine gives up, if it stays lost."""
    one = engine(start=False)
    broken = Broken(lambda sequence: True)
    broken.put_in(monkeypatch)

    def lost(_: Runner) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(Runner, "_check_device", lost)
    reasons: list[str] = []
    one.on_fatal = reasons.append
    one.start()
    for _ in range(5):
        requests = [one_pass(bert, BARE, ["w1"], f"t{i}") for i in range(3)]
        one.submit(requests)
        for request in requests:
            assert isinstance(request.future.exception(PATIENCE), EngineFailure)
    wait_until(lambda: reasons, "it says why")
    assert "the device is lost" in reasons[0]
    assert broken.passes == [3] * 5


def test_an_error_of_a_listener_does_not_end_the_thread(bert: Backbone, engine: Make) -> None:
    one = engine(start=False)
    calls: list[int] = []

    def listener(report: BatchReport) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("listener")

    one.runner.on_batch = listener
    first = one_pass(bert, BARE, ["w1"])
    one.submit([first])
    one.start()
    assert isinstance(first.future.exception(PATIENCE), EngineFailure)
    second = one_pass(bert, BARE, ["w1"])
    one.submit([second])
    assert outputs(second)


def test_it_gives_up_after_repeated_errors(bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine(start=False)
    FailsOnce(monkeypatch, Scheduler, "schedule", times=1000)
    reasons: list[str] = []
    one.on_fatal = reasons.append
    requests = [one_pass(bert, BARE, ["w1"], f"t{i}") for i in range(3)]
    one.submit(requests)
    one.start()
    for request in requests:
        assert isinstance(request.future.exception(PATIENCE), NotReady)
    wait_until(lambda: reasons, "it says why")
    assert "5 times within 60 s" in reasons[0]
    assert "schedule is broken" in reasons[0]
    assert not one.healthy
    assert one.restarts == 5
    with pytest.raises(NotReady, match="given up"):
        one.submit([one_pass(bert, BARE, ["w1"])])


def test_errors_far_apart_are_no_reason_to_give_up(
    bert: Backbone, engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_FAILURE_WINDOW", 0.0)
    one = engine(start=False)
    FailsOnce(monkeypatch, Scheduler, "schedule", times=20)
    request = one_pass(bert, BARE, ["w1"])
    one.submit([request])
    one.start()
    assert outputs(request)
    assert one.restarts == 20

"""One request and many: the short way answers, fails, counts and releases as the general one does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import manyhats
import orjson
import pytest
from manyhats.backbone import Text
from manyhats.engine.engine import Engine
from manyhats.errors import DeadlineExceeded, EngineFailure, ManyhatsError, Overloaded
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.service import Service

from tests import tiny
from tests.api.live import Live, serving

CODE = str(Path(manyhats.__file__).parent)
CALLS = 142  # of our functions, from a request to its answer; 22 of them keep room in the queue for it


@pytest.fixture(scope="module")
def live(base_folder, tmp_path_factory) -> Iterator[Live]:
    with serving(tiny.load(base_folder("bert")), tmp_path_factory.mktemp("store"), scan_interval=3600) as running:
        yield running


@pytest.fixture
def service(live: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The server's, asked on event loops of the tests' own. Nothing is in use at the end."""
    yield live.runtime.service
    live.wait_idle()


Outcome = InferenceResponse | ManyhatsError


def as_json(response: InferenceResponse) -> bytes:
    """The outputs as callers get them."""
    return orjson.dumps(response.outputs, option=orjson.OPT_SERIALIZE_NUMPY)


def both(service: Service, request: InferenceRequest) -> tuple[list[Outcome], list[Any]]:
    """What the short and the general way give, and what each counts."""
    counted: list[Any] = []

    async def main() -> list[Outcome]:
        try:
            alone: Outcome = await service.predict(request)
        except ManyhatsError as error:
            alone = error
        return [alone, *await service.predict_many([request])]

    before = service.on_answer
    service.on_answer = lambda one: counted.append((one.task if one.found else "", one.error, one.seconds > 0))
    try:
        return asyncio.run(main()), counted
    finally:
        service.on_answer = before


def asked(task: str, text: str = "w1 w2 w3", **parameters: Any) -> InferenceRequest:
    return InferenceRequest(task, [Text(text)], parameters)


@pytest.mark.parametrize(
    ("kind", "text", "parameters"),
    [
        ("classify", "w1 w2 w3", {}),
        ("classify", "w1 " * 1000, {"truncate": True}),  # not small: tokenised in a thread
        ("embed", "w1 " * 40, {"pooling": "none"}),
        ("embed", "w1 " * 200, {"pooling": "none", "truncate": True}),  # small, and its answer is not
    ],
)
def test_both_ways_give_the_same_answer(live: Live, service: Service, kind, text, parameters):
    task = live.add(kind=kind)
    live.outputs(task, "w1")
    (one, other), counted = both(service, asked(task, text, **parameters))
    assert isinstance(one, InferenceResponse)
    assert isinstance(other, InferenceResponse)
    assert as_json(one) == as_json(other)
    varying: dict[str, Any] = {"id": "", "batch": {}, "queue_ms": 0, "compute_ms": 0, "outputs": []}
    assert replace(one, **varying) == replace(other, **varying)
    assert one.id != other.id
    assert counted == [(task, "", True)] * 2


def test_an_adapter_that_is_not_there_is_waited_for(live: Live, service: Service):
    task = live.add()
    live.outputs(task, "w1")
    live.wait_idle()
    service.adapter_cache.unload(service.registry.task(task).versions[-1].sha256)
    answer = asyncio.run(service.predict(asked(task)))
    assert answer.load_ms > 0
    assert asyncio.run(service.predict(asked(task))).load_ms == 0


@pytest.mark.parametrize(
    ("text", "parameters"), [("w1 " * 600, {"truncate": False}), ("w1", {"top_k": 0}), (" ", {}), ("w1", {"n": 1})]
)
def test_both_ways_fail_alike(live: Live, service: Service, text, parameters):
    task = live.add()
    live.outputs(task, "w1")
    (one, other), counted = both(service, asked(task, text, **parameters))
    assert isinstance(one, ManyhatsError)
    assert (type(one), str(one), vars(one)) == (type(other), str(other), vars(other))
    assert counted[0] == counted[1]


@pytest.mark.parametrize("error", [Overloaded("full"), ValueError("a mistake")])
def test_what_the_engine_refuses_fails_alike(live: Live, service: Service, monkeypatch, error):
    def refuse(self: Engine, requests: Any) -> None:
        raise error

    task = live.add()
    live.outputs(task, "w1")
    if isinstance(error, ManyhatsError):
        monkeypatch.setattr(Engine, "submit", refuse)
    else:
        monkeypatch.setattr(service._preparation, "_close_pass", lambda *given: refuse(service.engine, given))
    (one, other), counted = both(service, asked(task))
    expected = type(error) if isinstance(error, ManyhatsError) else EngineFailure
    assert type(one) is type(other) is expected
    assert str(one) == str(other)
    assert [kind for _, kind, _ in counted] == [expected.__name__] * 2


@pytest.mark.parametrize("cancelled", [False, True])
def test_who_waits_in_vain_leaves_nothing(live: Live, service: Service, monkeypatch, cancelled):
    """An engine that never runs anything."""
    task = live.add()
    live.outputs(task, "w1")
    submitted: list[Any] = []
    monkeypatch.setattr(Engine, "submit", lambda self, requests: submitted.extend(requests))
    monkeypatch.setattr(service, "limits", replace(service.limits, timeout=0.01))

    async def main() -> None:
        waiting = asyncio.create_task(service.predict(asked(task)))
        while not submitted:
            await asyncio.sleep(0)
        if cancelled:
            waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError if cancelled else DeadlineExceeded):
        asyncio.run(main())
    (request,) = submitted
    assert request.future.cancelled()


def test_a_small_request_takes_few_calls(live: Live, service: Service):
    task = live.add()
    live.outputs(task, "w1")
    calls: list[str] = []

    def seen(frame: Any, event: str, given: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(CODE):
            calls.append(frame.f_code.co_qualname)

    async def main() -> None:
        await service.predict(asked(task))
        sys.setprofile(seen)
        try:
            await service.predict(asked(task))
        finally:
            sys.setprofile(None)

    asyncio.run(main())
    assert len(calls) <= CALLS, calls

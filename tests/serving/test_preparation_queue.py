"""What becomes ready in one turn of the event loop is tokenised and submitted together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from manyhats.backbone import Text, Tokenizer
from manyhats.engine.engine import Engine
from manyhats.errors import EngineFailure, InputTooLong
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.preparation import Preparation

from tests import tiny
from tests.api.live import Live, serving


@pytest.fixture(scope="module")
def live(base_folder, tmp_path_factory) -> Iterator[Live]:
    with serving(tiny.load(base_folder("bert")), tmp_path_factory.mktemp("store"), scan_interval=3600) as running:
        yield running


def ask(live: Live, texts: list[str], **parameters: Any) -> list[Any]:
    """One request for each text, all in one turn of an event loop."""

    async def main() -> list[Any]:
        requests = [InferenceRequest("base", [Text(text)], parameters) for text in texts]
        answers = (live.runtime.service.predict(request) for request in requests)
        return await asyncio.gather(*answers, return_exceptions=True)

    found = asyncio.run(main())
    live.wait_idle()
    return found


def test_requests_of_one_turn_share_one_call_of_the_tokenizer_and_of_the_engine(live: Live, monkeypatch) -> None:
    tokenised: list[int] = []
    submitted: list[int] = []
    encode, submit = Tokenizer.encode, Engine.submit

    def counting_encode(self: Tokenizer, texts: Any, max_tokens: int) -> Any:
        tokenised.append(len(texts))
        return encode(self, texts, max_tokens)

    def counting_submit(self: Engine, requests: Any) -> None:
        submitted.append(len(requests))
        submit(self, requests)

    alone = [ask(live, [text])[0].outputs[0]["embedding"].tolist() for text in ("w1", "w2 w3", "w4")]
    monkeypatch.setattr(Tokenizer, "encode", counting_encode)
    monkeypatch.setattr(Engine, "submit", counting_submit)
    together = ask(live, ["w1", "w2 w3", "w4"])
    assert tokenised == submitted == [3]
    for answer, expected in zip(together, alone, strict=True):
        assert answer.outputs[0]["embedding"].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_that_is_too_long_fails_alone(live: Live) -> None:
    long, short = ask(live, ["w1 " * 600, "w1"], truncate=False)
    assert isinstance(long, InputTooLong)
    assert isinstance(short, InferenceResponse)


def test_a_text_that_cannot_be_tokenised_fails_alone(live: Live, monkeypatch) -> None:
    encode = Tokenizer.encode

    def refusing(self: Tokenizer, texts: Any, max_tokens: int) -> Any:
        if any(text.text == "bad" for text in texts):
            raise ValueError("bad")
        return encode(self, texts, max_tokens)

    monkeypatch.setattr(Tokenizer, "encode", refusing)
    good, bad = ask(live, ["w1", "bad"])
    assert isinstance(good, InferenceResponse)
    assert isinstance(bad, Exception)


def _raises(*_: Any) -> Any:
    raise RuntimeError("injected")


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Preparation, "prepare_passes", _raises),
        (Preparation, "prepare_passes", lambda _, states: [None] * len(states)),  # and nothing is prepared
        (Preparation, "prepare_passes", lambda *_: []),
        (Preparation, "_open_pass", _raises),
        (Preparation, "_close_pass", _raises),
        (Tokenizer, "encode", _raises),
        (Engine, "submit", _raises),
    ],
    ids=["all fail", "nothing prepared", "too few", "opening", "closing", "tokenising", "submitting"],
)
def test_no_error_leaves_a_caller_waiting(live: Live, monkeypatch, owner: type, name: str, instead: Any) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, instead)
        answers = ask(live, ["w1", "w2"])
    assert [type(answer) for answer in answers] == [EngineFailure, EngineFailure]  # and none ran into the deadline
    (after,) = ask(live, ["w1"])
    assert isinstance(after, InferenceResponse)

"""SageMaker's one route answers as the route whose body it gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.live import TEXTS, Live, assert_error, close

ABOUT = ("id", "created", "timing", "batch")  # of each answer its own


def without(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: without(value) for name, value in body.items() if name not in ABOUT}
    return [without(one) for one in body] if isinstance(body, list) else body


@pytest.fixture(scope="module")
def tasks(live: Live) -> dict[str, str]:
    kinds: dict[str, dict[str, Any]] = {"classify": {}, "embed": {}, "rerank": {"labels": 1}}
    return {kind: live.add(kind, kind=kind, **options) for kind, options in kinds.items()}  # type: ignore[arg-type]


def test_each_form_is_answered_as_on_its_own_route(live: Live, tasks: dict[str, str]) -> None:
    for route, body in (
        ("/v1/embeddings", {"model": tasks["embed"], "input": TEXTS}),
        ("/v1/embeddings", {"model": "base", "input": TEXTS, "encoding_format": "float"}),
        ("/classify", {"model": tasks["classify"], "input": TEXTS}),
        ("/rerank", {"model": tasks["rerank"], "query": "w1", "documents": TEXTS}),
        ("/rerank", {"model": tasks["rerank"], "query": "w1", "texts": TEXTS}),
        ("/score", {"model": tasks["rerank"], "text_1": "w1", "text_2": TEXTS}),
        ("/score", {"model": tasks["rerank"], "queries": "w1", "documents": TEXTS}),
        ("/v1/predict", {"tasks": list(tasks.values())[:2], "inputs": "w1"}),
        ("/v1/predict", {"requests": [{"task": tasks["embed"], "inputs": TEXTS}]}),
        ("/", {"inputs": TEXTS, "parameters": {"adapter_id": tasks["classify"]}}),
        ("/v1/completions", {"model": "base", "prompt": "w1"}),  # refused: the backbone does not generate
        ("/v1/chat/completions", {"model": "base", "messages": [{"role": "user", "content": "w1"}]}),
        ("/v1/embeddings", {"model": "nobody", "input": TEXTS}),
    ):
        own, other = live.client.post(route, json=body), live.client.post("/invocations", json=body)
        assert other.status_code == own.status_code, other.text
        assert close(without(other.json()), without(own.json())), route


def test_what_has_no_form_is_refused(live: Live) -> None:
    for body in ({}, {"model": "base"}, {"text": "w1"}):
        assert_error(live.client.post("/invocations", json=body), 400, "none of the fields messages, prompt")
    assert_error(live.client.post("/invocations", json=[]), 400)
    assert_error(live.client.post("/invocations", json={"input": "w1", "model": 3}), 400, "model")

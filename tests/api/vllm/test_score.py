"""Scores and rankings over the routes of vLLM, Jina and Cohere."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from manyhats.api.vllm.rerank import RankedList
from manyhats.api.vllm.score import ScoreList

from tests.api.live import Live, assert_error, close

QUERY = "w1 w2"
DOCUMENTS = ["w3 w4 w5", "w6", "w1 w2", "w9 w8 w7 w6"]


@pytest.fixture(scope="module")
def ranks(live: Live) -> str:
    return live.add("ranks", kind="rerank", labels=1)


@pytest.fixture(scope="module")
def vectors(live: Live) -> str:
    return live.add("vectors", kind="embed")


def expected(live: Live, model: str, queries: list[str], **parameters: Any) -> list[float]:
    """The scores by our own route."""
    pairs = list(zip(queries * (len(DOCUMENTS) // len(queries)), DOCUMENTS, strict=True))
    shown = live.client.get(f"/v1/tasks/{model}").json()
    if shown["kind"] == "rerank":
        inputs = [{"text": one, "text_pair": other} for one, other in pairs]
        return [output["score"] for output in live.outputs(model, inputs, **parameters)]
    both = [[one["embedding"] for one in live.outputs(model, list(side))] for side in zip(*pairs, strict=True)]
    left, right = (np.array(side) / np.linalg.norm(side, axis=1, keepdims=True) for side in both)
    return (left * right).sum(axis=1).tolist()


def score(live: Live, **body: Any) -> httpx.Response:
    return live.client.post("/score", json=body)


def test_score(live: Live, ranks: str, vectors: str) -> None:
    for model in (ranks, vectors, "base"):
        for queries in (QUERY, [QUERY], ["w1", "w2", "w3", "w4"]):
            values = expected(live, model, [queries] if isinstance(queries, str) else queries)
            for left, right in (
                ("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")
            ):  # fmt: skip
                body = score(live, model=model, **{left: queries, right: DOCUMENTS}).json()
                assert close([one["score"] for one in body["data"]], values)
            assert ScoreList.model_validate(body).model_dump(exclude_none=True) == body
            assert [one["index"] for one in body["data"]] == [0, 1, 2, 3]
    raw = score(live, model=ranks, text_1=QUERY, text_2=DOCUMENTS, use_activation=False).json()["data"]
    assert close([one["score"] for one in raw], expected(live, ranks, [QUERY], raw_scores=True))
    same = live.client.post("/v1/score", json={"model": ranks, "text_1": QUERY, "text_2": DOCUMENTS[0]}).json()
    assert close(same["data"][0]["score"], expected(live, ranks, [QUERY])[0])


def test_score_refuses(live: Live, ranks: str) -> None:
    assert_error(score(live, model=ranks, text_1=["w1", "w2"], text_2=["w1"]), 400, "2 texts to compare with 1")
    assert_error(score(live, model=ranks, text_1=[], text_2=[]), 400, "0 texts")
    assert_error(score(live, model=ranks, text_1="w1"), 400, "text_2")
    assert_error(score(live, model="nobody", text_1="w1", text_2="w1"), 404, "nobody")
    assert_error(score(live, model=live.add(), text_1="w1", text_2="w1"), 400, "of kind 'classify' and not 'rerank'")
    assert_error(score(live, model=ranks, text_1="w1", text_2="w2 " * 500), 400, "tokens")
    assert_error(score(live, model=ranks, text_1="w1", text_2=["w1"] * 2049), 413, "2049")
    assert score(live, model=ranks, text_1="w1", text_2="w2 " * 500, truncate_prompt_tokens=-1).json()["warnings"]


@pytest.mark.parametrize("route", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank(live: Live, ranks: str, vectors: str, route: str) -> None:
    for model in (ranks, vectors):
        values = expected(live, model, [QUERY])
        order = sorted(range(len(values)), key=lambda i: -values[i])
        for documents in (DOCUMENTS, [{"text": text} for text in DOCUMENTS]):
            for count in (None, 0, 2, 9):
                asked = {"model": model, "query": QUERY, "documents": documents, "top_n": count}
                body = live.client.post(route, json=asked).json()
                assert RankedList.model_validate(body).model_dump(exclude_none=True) == body
                kept = order[: count or None]
                assert [one["index"] for one in body["results"]] == kept
                assert [one["document"]["text"] for one in body["results"]] == [DOCUMENTS[i] for i in kept]
                assert close([one["relevance_score"] for one in body["results"]], [values[i] for i in kept])
    asked = {"model": ranks, "query": QUERY, "documents": DOCUMENTS, "return_documents": False}
    assert all("document" not in one for one in live.client.post(route, json=asked).json()["results"])


def test_rerank_refuses(live: Live, ranks: str) -> None:
    def ask(**body: Any) -> httpx.Response:
        return live.client.post("/rerank", json={"model": ranks, "query": QUERY, "documents": DOCUMENTS} | body)

    assert_error(ask(documents=[]), 400, "'documents' is empty")
    assert_error(ask(documents=["w1", " "], query=" "), 400, "empty")
    assert_error(ask(top_n=-1), 400, "top_n")
    assert_error(ask(model="nobody"), 404, "nobody")
    assert_error(ask(documents=[{"image": "x"}]), 400, "documents")
    assert_error(ask(documents=["w1"] * 2049), 413, "2049")
    live.wait_idle()

"""Vectors, labels and rankings over TEI's routes, with TEI's errors."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from manyhats.api.tei.embed import Cosines, TokenVectors, Vectors
from manyhats.api.tei.info import Info
from manyhats.api.tei.predict import Predictions

from tests import tiny
from tests.api.live import TEXTS, Live, close


@pytest.fixture(scope="module")
def vectors(live: Live) -> str:
    return live.add("vectors", kind="embed")


@pytest.fixture(scope="module")
def labels(live: Live) -> str:
    return live.add("labels", labels=3)


def own(live: Live, task: str, inputs: Any = TEXTS, **parameters: Any) -> list[Any]:
    return [output["embedding"] for output in live.outputs(task, inputs, **parameters)]


def post(live: Live, path: str, **body: Any) -> Any:
    answer = live.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_refused(answer: httpx.Response, status: int, kind: str, message: str = "") -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_type"}
    assert body["error_type"] == kind
    assert message in body["error"]


def test_embed(live: Live, vectors: str) -> None:
    for named in ({}, {"model": vectors}, {"adapter_id": vectors}, {"model": "base"}, {"adapter_id": f"{vectors}@1"}):
        task = next(iter(named.values()), "base")
        found = post(live, "/embed", inputs=TEXTS, **named)
        assert Vectors.model_validate(found)
        assert close(found, own(live, task, normalize=True))
        assert close(post(live, "/embed", inputs=TEXTS, normalize=False, **named), own(live, task, normalize=False))
        assert close(post(live, "/embed", inputs=TEXTS[0], **named), own(live, task, normalize=True)[:1])
        short = np.array(own(live, task, normalize=False), np.float32)[:, :5]
        assert close(post(live, "/embed", inputs=TEXTS, normalize=False, dimensions=5, **named), short.tolist())
        unit = short / np.linalg.norm(short, axis=1, keepdims=True)
        assert close(post(live, "/embed", inputs=TEXTS, dimensions=5, **named), unit.tolist())
        each = post(live, "/embed_all", inputs=TEXTS, **named)
        assert TokenVectors.model_validate(each)
        assert close(each, own(live, task, pooling="none", normalize=False))
    tokens = [list(tiny.row(live.backbone, tiny.BARE, text).ids) for text in TEXTS]
    assert close(post(live, "/embed", inputs=tokens), own(live, "base", normalize=True))
    long = "w1 " * 500
    assert close(
        post(live, "/embed", inputs=long, truncate=True), own(live, "base", long, truncate=True, normalize=True)
    )


def test_prompts_are_followed(live: Live) -> None:
    task = live.add("prompted", kind="embed")
    assert live.client.put(f"/v1/tasks/{task}", json={"prompts": {"query": "w9 w8 "}}).status_code == 200
    found = post(live, "/embed", inputs=TEXTS, model=task, prompt_name="query")
    assert close(found, own(live, task, prompt_name="query", normalize=True))
    each = post(live, "/embed_all", inputs=TEXTS[0], model=task, prompt_name="query")
    assert close(each, own(live, task, TEXTS[0], prompt_name="query", pooling="none"))


def test_similarity(live: Live, vectors: str) -> None:
    for named in ({}, {"model": vectors}):
        inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS}
        found = post(live, "/similarity", inputs=inputs, parameters={}, **named)
        assert Cosines.model_validate(found)
        unit = np.array(own(live, named.get("model", "base"), normalize=True))
        assert close(found, (unit @ unit[0]).tolist())


def test_predict(live: Live, labels: str) -> None:
    outputs = live.outputs(labels, logits=True, top_k=None)
    for raw in (False, True):
        names = list(outputs[0]["scores"])
        values = [output["logits"] if raw else list(output["scores"].values()) for output in outputs]
        expected = [
            sorted(({"score": v, "label": n} for n, v in zip(names, row, strict=True)), key=lambda one: -one["score"])
            for row in values
        ]
        found = post(live, "/predict", inputs=[[text] for text in TEXTS], model=labels, raw_scores=raw)
        assert Predictions.model_validate(found)
        assert [[one["label"] for one in row] for row in found] == [[one["label"] for one in row] for row in expected]
        assert close([[one["score"] for one in row] for row in found], [[o["score"] for o in row] for row in expected])
        one = post(live, "/predict", inputs=TEXTS[0], model=labels, raw_scores=raw)
        assert close(one, found[0])
        assert close(post(live, "/predict", inputs=TEXTS[:1], model=labels, raw_scores=raw), found[0])
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    scores = live.outputs(labels, [pair])[0]["scores"]
    for inputs, first in ((TEXTS[:2], lambda found: found), ([TEXTS[:2], [TEXTS[2]]], lambda found: found[0])):
        found = first(post(live, "/predict", inputs=inputs, model=labels))
        assert close({one["label"]: one["score"] for one in found}, dict(sorted(scores.items(), key=lambda o: -o[1])))
    value = live.add(kind="regress", labels=1)
    (expected_value,) = live.outputs(value, TEXTS[0])
    assert post(live, "/predict", inputs=TEXTS[0], model=value)[0]["score"] == pytest.approx(expected_value["value"])
    ranks = live.add(kind="rerank", labels=1)
    for raw in (False, True):
        (expected_score,) = live.outputs(ranks, [pair], raw_scores=raw)
        (found_score,) = post(live, "/predict", inputs=TEXTS[:2], model=ranks, raw_scores=raw)
        assert found_score["score"] == pytest.approx(expected_score["score"], abs=tiny.CLOSE)


@pytest.mark.parametrize("route", ["/rerank", "/v1/rerank"])
def test_rerank(live: Live, route: str) -> None:
    task = live.add(kind="rerank", labels=1)
    for raw in (False, True):
        outputs = live.outputs(task, [{"text": "w1", "text_pair": text} for text in TEXTS], raw_scores=raw)
        scores = [output["score"] for output in outputs]
        found = post(live, route, query="w1", texts=TEXTS, model=task, raw_scores=raw)
        order = sorted(range(3), key=lambda i: -scores[i])
        assert [one["index"] for one in found] == order
        assert close([one["score"] for one in found], [scores[i] for i in order])
        assert all("text" not in one for one in found)
    found = post(live, route, query="w1", texts=TEXTS, adapter_id=task, return_text=True)
    assert [one["text"] for one in found] == [TEXTS[one["index"]] for one in found]
    answer = live.client.post(route, json={"query": "w1", "texts": [], "model": task})
    assert_refused(answer, 422, "Validation", "'texts' is empty")


def test_info(live: Live) -> None:
    body = live.client.get("/info").json()
    info = Info.model_validate(body)
    assert info.model_id == live.backbone.name
    assert info.max_total_tokens == live.backbone.max_tokens
    assert info.model_type == {"embedding": {"pooling": "mean"}}


def test_errors_are_teis(live: Live, vectors: str, labels: str) -> None:
    def embed(path: str = "/embed", **body: Any) -> httpx.Response:
        return live.client.post(path, json=body)

    for path in ("/embed", "/embed_all"):
        assert_refused(embed(path, inputs=[]), 422, "Validation", "'inputs' is empty")
        assert_refused(embed(path, inputs=["w1", ""]), 422, "Validation", "input 1 is empty")
        assert_refused(embed(path, inputs="w1 " * 500), 413, "Validation", "tokens")
        assert_refused(embed(path, inputs=["w1"] * 2049), 413, "Validation", "2049")
        assert_refused(embed(path), 422, "Validation", "inputs")
        assert_refused(embed(path, inputs="w1", model="nobody"), 404, "NotFoundError", "nobody")
        assert_refused(embed(path, inputs="w1", model=labels), 422, "Validation", "not 'embed'")
        assert_refused(embed(path, inputs="w1", model=labels, adapter_id=vectors), 422, "Validation", "two tasks")
        assert_refused(embed(path, inputs="w1", truncation_direction="Left"), 422, "Validation", "truncation_direction")
        assert_refused(embed(path, inputs="w1", prompt_name="nothing"), 422, "Validation", "no prompt 'nothing'")
    assert_refused(embed(inputs="w1", pooling="cls"), 422, "Validation", "'pooling' is not supported")
    assert_refused(embed(inputs="w1", dimensions=10**6), 422, "Validation", "'dimensions'")
    assert_refused(embed("/predict", inputs="w1", model=vectors), 422, "Validation", "kind 'embed'")
    assert_refused(embed("/predict", inputs=["a", "b", "c"], model=labels), 422, "Validation", "inputs")
    assert_refused(embed("/predict", inputs=[], model=labels), 422, "Validation")
    assert_refused(embed("/predict", inputs="w1"), 422, "Validation", "kind 'embed'")
    assert_refused(embed("/similarity", inputs={"source_sentence": "w1"}), 422, "Validation", "sentences")
    assert embed(inputs="w1", truncation_direction="Right", made_up=1).status_code == 200
    live.wait_idle()


def test_a_key_is_needed(start) -> None:
    with start(api_keys="secret") as live:
        for path in ("/embed", "/embed_all", "/predict", "/similarity"):
            answer = live.client.post(path, json={"inputs": "w1"})
            assert_refused(answer, 401, "AuthenticationError", "a key is needed")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert live.client.get("/info").status_code == 401

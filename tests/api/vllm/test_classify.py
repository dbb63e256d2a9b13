"""Labels and pooled outputs over vLLM's routes."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from manyhats.api.vllm.classify import ClassificationList
from manyhats.api.vllm.pooling import PooledList

from tests import tiny
from tests.api.live import TEXTS, Live, assert_error, close


@pytest.fixture(scope="module")
def labels(live: Live) -> str:
    task = live.add("labels", labels=3)
    body = {"labels": ["one", "two", "three"], "defaults": {"top_k": 1}}
    assert live.client.put(f"/v1/tasks/{task}", json=body).status_code == 200
    return task


@pytest.fixture(scope="module")
def vectors(live: Live) -> str:
    return live.add("vectors", "bottleneck", kind="embed")


def ask(live: Live, route: str, model: str, **body: Any) -> httpx.Response:
    return live.client.post(route, json={"model": model, "input": TEXTS} | body)


def test_classify(live: Live, labels: str) -> None:
    expected = live.outputs(labels, logits=True, top_k=None)
    for fields, values in (
        ({}, [list(output["scores"].values()) for output in expected]),
        ({"use_activation": True}, [list(output["scores"].values()) for output in expected]),
        ({"use_activation": False}, [output["logits"] for output in expected]),
    ):
        body = ask(live, "/classify", labels, **fields).json()
        assert ClassificationList.model_validate(body).model_dump(exclude_none=True) == body
        assert body["object"] == "list"
        assert body["model"] == labels
        assert body["id"].startswith("classify-")
        assert [one["label"] for one in body["data"]] == [output["label"] for output in expected]
        assert [(one["index"], one["num_classes"]) for one in body["data"]] == [(0, 3), (1, 3), (2, 3)]
        assert close([one["probs"] for one in body["data"]], values)
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 0
    tokens = [list(tiny.row(live.backbone, tiny.BARE, text).ids) for text in TEXTS]
    assert close(
        ask(live, "/classify", labels, input=tokens).json()["data"], ask(live, "/classify", labels).json()["data"]
    )
    (one,) = ask(live, "/classify", labels, input=TEXTS[0]).json()["data"]
    assert close(one["probs"], list(expected[0]["scores"].values()))


def test_classify_refuses(live: Live, labels: str, vectors: str) -> None:
    assert_error(ask(live, "/classify", "nobody"), 404, "The model `nobody` does not exist")
    for other in (vectors, "base"):
        assert_error(ask(live, "/classify", other), 400, "of kind 'embed' and not 'classify'")
    assert_error(ask(live, "/classify", labels, input="w1 " * 500), 400, "tokens")
    body = ask(live, "/classify", labels, input="w1 " * 500, truncate_prompt_tokens=-1).json()
    assert [one["code"] for one in body["warnings"]] == ["truncated"]
    assert_error(ask(live, "/classify", labels, truncate_prompt_tokens=2), 400, "give -1")
    assert_error(ask(live, "/classify", labels, priority=3), 400, "'priority'")
    assert_error(ask(live, "/classify", labels, input=["w1"] * 2049), 413, "2049")
    assert_error(live.client.post("/classify", json={"model": labels}), 400, "input")


def test_pooling(live: Live, labels: str, vectors: str) -> None:
    for model in (vectors, "base"):
        own = [output["embedding"] for output in live.outputs(model)]
        each = [output["embedding"] for output in live.outputs(model, pooling="none")]
        unit = [output["embedding"] for output in live.outputs(model, normalize=True)]
        for fields, values in (
            ({}, own),
            ({"task": "embed"}, own),
            ({"task": "token_embed"}, each),
            ({"normalize": True}, unit),
        ):
            body = ask(live, "/pooling", model, **fields).json()
            assert PooledList.model_validate(body).model_dump(exclude_none=True) == body
            assert close([one["data"] for one in body["data"]], values)
        body = ask(live, "/pooling", model, encoding_format="base64").json()
        numbers = [np.frombuffer(base64.b64decode(one["data"]), "<f4").tolist() for one in body["data"]]
        assert close(numbers, own)
        for task, dimension in (("embed", 4), ("token_embed", 4)):
            data = ask(live, "/pooling", model, task=task, dimensions=dimension).json()["data"]
            rows = [np.atleast_2d(one["data"]) for one in data]
            assert all(row.shape[1] == 4 and np.allclose(np.linalg.norm(row, axis=1), 1, atol=1e-5) for row in rows)
    scores = [list(output["scores"].values()) for output in live.outputs(labels, top_k=None)]
    assert close([one["data"] for one in ask(live, "/pooling", labels, task="classify").json()["data"]], scores)


def test_pooling_refuses(live: Live, labels: str, vectors: str) -> None:
    assert_error(ask(live, "/pooling", labels, task="embed"), 400, "not 'embed'")
    assert_error(ask(live, "/pooling", vectors, task="classify"), 400, "not 'classify'")
    assert_error(ask(live, "/pooling", live.add(kind="tokens")), 400, "is not one of embed, classify")
    assert_error(ask(live, "/pooling", labels, task="classify", dimensions=2), 400, "'dimensions' is for vectors")
    assert_error(ask(live, "/pooling", vectors, dimensions=10_000), 400, "'dimensions' is 10000")
    assert_error(ask(live, "/pooling", vectors, encoding_format="bytes"), 400, "encoding_format")
    assert_error(ask(live, "/pooling", vectors, task="plugin"), 400, "task")
    live.wait_idle()

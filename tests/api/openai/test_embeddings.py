"""Vectors by OpenAI's client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from manyhats.api.openai.embeddings import EmbeddingList

from tests import tiny
from tests.api.live import TEXTS, Live, adapter_files, assert_error, fresh


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def task(live: Live) -> str:
    return live.add("vectors", kind="embed")


def own(live: Live, task: str, inputs: Any = TEXTS, **parameters: Any) -> np.ndarray:
    return np.array([output["embedding"] for output in live.outputs(task, inputs, **parameters)], np.float32)


def ask(live: Live, **body: Any) -> httpx.Response:
    return live.client.post("/v1/embeddings", json={"model": "base", "input": TEXTS} | body)


def vectors(answer: Any) -> np.ndarray:
    return np.array([one.embedding for one in answer.data], np.float32)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, atol=tiny.CLOSE)


def test_the_client_gets_the_tasks_vectors(live: Live, task: str, client: openai.OpenAI) -> None:
    for name in ("base", live.backbone.name, task, f"{task}@stable", f"{task}@1"):
        expected = own(live, "base" if name == live.backbone.name else name)
        answer = client.embeddings.create(model=name, input=TEXTS)  # the client asks for base64
        assert close(vectors(answer), expected)
        assert answer.model == name
        assert [one.index for one in answer.data] == [0, 1, 2]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens
        assert answer.usage.total_tokens == sum(len(tiny.row(live.backbone, tiny.BARE, text).ids) for text in TEXTS)
        floats = client.embeddings.create(model=name, input=TEXTS, encoding_format="float")
        assert close(vectors(floats), expected)
        one = client.embeddings.create(model=name, input=TEXTS[1])
        assert close(vectors(one), own(live, "base" if name == live.backbone.name else name, TEXTS[1]))


def test_answers_have_the_documented_form(live: Live) -> None:
    for form in ("float", "base64"):
        body = ask(live, encoding_format=form).json()
        assert EmbeddingList.model_validate(body).model_dump(exclude_none=True) == body
    numbers = np.frombuffer(base64.b64decode(ask(live, encoding_format="base64").json()["data"][0]["embedding"]), "<f4")
    assert close(numbers, np.array(ask(live).json()["data"][0]["embedding"], np.float32))


def test_fewer_dimensions_are_of_length_one(live: Live, task: str, client: openai.OpenAI) -> None:
    whole = own(live, task)
    for count in (1, 5, whole.shape[1]):
        found = vectors(client.embeddings.create(model=task, input=TEXTS, dimensions=count))
        kept = whole[:, :count]
        assert close(found, kept / np.linalg.norm(kept, axis=1, keepdims=True))
    for wrong in (0, -1, whole.shape[1] + 1, 1.5, "5"):
        assert assert_error(ask(live, model=task, dimensions=wrong), 400, "dimensions")["param"] == "dimensions"


def test_tokens_are_read_as_they_are(live: Live, task: str, client: openai.OpenAI) -> None:
    settings = {
        "prompts": {"p": "w8 w9 "},
        "default_prompt_name": "p",
        "include_prompt": False,
        "template": "w7 {text}",
    }
    prompted = live.add("prompted", kind="embed")
    assert live.client.put(f"/v1/tasks/{prompted}", json=settings).status_code == 200
    plain = live.add("plain", kind="embed")
    tokens = [list(tiny.row(live.backbone, tiny.BARE, text).ids) for text in TEXTS]
    for name in ("base", task, plain):
        expected = own(live, name)
        assert close(vectors(client.embeddings.create(model=name, input=tokens)), expected)
        assert close(vectors(client.embeddings.create(model=name, input=tokens[0])), expected[:1])
    assert not close(own(live, prompted), own(live, prompted, prompt=""))
    assert ask(live, model=prompted, input=tokens).status_code == 200
    vocabulary = live.backbone.config.vocab_size
    for wrong in ([-1], [vocabulary], [[1], []], [[1], [vocabulary]]):
        assert assert_error(ask(live, input=wrong), 400, "prompt")["param"].startswith("input")
    assert_error(ask(live, input=tokens, prompt="w1 "), 400, "'prompt' is put before texts")
    assert_error(ask(live, input=[[1] * 1000]), 400, "1000 tokens")


def test_own_parameters_are_followed(live: Live, task: str, client: openai.OpenAI) -> None:
    for given in ({"normalize": True}, {"pooling": "cls"}, {"prompt": "w5 "}, {"pooling": ["max", "mean"]}):
        found = vectors(client.embeddings.create(model="base", input=TEXTS, extra_body=given))
        assert close(found, own(live, "base", **given))
    assert_error(ask(live, pooling="none"), 400, "/embed_all")
    assert_error(ask(live, pooling="median"), 400, "pooling")
    assert_error(ask(live, prompt_name="nothing"), 400, "there is no prompt 'nothing'")


def test_long_inputs_are_refused_or_truncated_and_named(live: Live, client: openai.OpenAI) -> None:
    long = ["w1", "w2 " * 500]
    error = assert_error(ask(live, input=long), 400, "input 1 has .* tokens")
    assert error["param"] == "input.1"
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.embeddings.create(model="base", input=long)
    for given in ({"truncate": True}, {"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 10_000}):
        body = ask(live, input=long, **given).json()
        assert [one["input"] for one in body["warnings"]] == [1]
        assert EmbeddingList.model_validate(body).warnings
    assert_error(ask(live, truncate_prompt_tokens=3), 400, "'truncate_prompt_tokens' 3 is not supported; give -1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": []}, "'input' is empty"),
        ({"input": ""}, "input 0 is empty"),
        ({"input": ["w1", " "]}, "input 1 is empty"),
        ({"input": [1, "w1"]}, "a prompt is a text"),
        ({"input": None}, "a prompt is a text"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"add_special_tokens": False}, "'add_special_tokens' is not supported"),
        ({"embed_dtype": "float16"}, "'embed_dtype'"),
        ({"messages": [{"role": "user", "content": "w1"}]}, "'messages' is not supported; give texts"),
        ({"input_type": "query"}, "use 'prompt_name'"),
        ({"late_chunking": True}, "'late_chunking'"),
        ({"truncation_side": "left"}, "'truncation_side'"),
        ({"use_activation": False}, "'use_activation'"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(live: Live, fields: dict[str, Any], message: str) -> None:
    assert_error(ask(live, **fields), 400, message)


def test_other_fields_pass(live: Live) -> None:
    neutral = {"user": "x", "made_up": 1, "add_special_tokens": True, "embed_dtype": "float32", "priority": 0}
    nulls = dict.fromkeys(("encoding_format", "dimensions", "truncate", "truncate_prompt_tokens", "normalize"))
    assert ask(live, **neutral, **nulls).json()["data"] == ask(live).json()["data"]


def test_only_tasks_that_embed(live: Live, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"):
        client.embeddings.create(model="nobody", input="w1")
    label = fresh("label")
    assert live.upload(label, adapter_files(live.backbone)).status_code == 201
    error = assert_error(ask(live, model=label), 400, "of kind 'classify' and not 'embed'")
    assert error["param"] == "model"
    live.wait_idle()


def test_too_many_are_refused(live: Live) -> None:
    assert_error(ask(live, input=["w1"] * 2049), 413, "2049")
    assert_error(ask(live, input=[[1]] * 2049), 413, "2049")

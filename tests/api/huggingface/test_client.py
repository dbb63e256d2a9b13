"""Tasks of every kind by Hugging Face's `InferenceClient`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from manyhats.api.huggingface.answers import HubAnswer

from tests.api.live import TEXTS, Live, close

PAIR = {"text": "w1 w2", "text_pair": "w3 w4 w5 w6"}


@pytest.fixture(scope="module")
def asks(live: Live) -> Callable[[str], InferenceClient]:
    """A client of one task, or of the server as a whole."""
    root = f"http://{live.host}:{live.port}"
    return lambda task="": InferenceClient(model=f"{root}/models/{task}" if task else root, token="none")


def own(live: Live, task: str, inputs: Any = TEXTS, **parameters: Any) -> list[Any]:
    return [output["embedding"] for output in live.outputs(task, inputs, **parameters)]


def test_feature_extraction(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add("vectors", kind="embed")
    assert live.client.put(f"/v1/tasks/{task}", json={"prompts": {"query": "w9 "}}).status_code == 200
    for name in ("", task):
        client = asks(name)
        found = client.feature_extraction(TEXTS[0])
        assert found.dtype == np.float32
        assert close(found.tolist(), own(live, name or "base")[:1])
        for given in ({"normalize": True}, {"truncate": True}):
            assert close(
                client.feature_extraction(TEXTS[1], **given)[0].tolist(), own(live, name or "base", **given)[1]
            )
        short = np.array(own(live, name or "base")[0][:4])
        assert close(
            client.feature_extraction(TEXTS[0], dimensions=4)[0].tolist(), (short / np.linalg.norm(short)).tolist()
        )
    prompted = asks(task).feature_extraction(TEXTS[0], prompt_name="query")
    assert close(prompted[0].tolist(), own(live, task, prompt_name="query")[0])
    answer = live.client.post(f"/models/{task}/pipeline/feature-extraction", json={"inputs": TEXTS})
    assert close(answer.json(), own(live, task))


def test_sentence_similarity(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add("vectors", kind="embed")
    for name in ("", task):
        client = asks(name)
        found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
        unit = np.array(own(live, name or "base", normalize=True))
        assert close(found, (unit @ unit[0]).tolist())


def test_text_classification(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add("labels", labels=4)
    assert live.client.put(f"/v1/tasks/{task}", json={"labels": list("abcd")}).status_code == 200
    client = asks(task)
    for given, parameters, raw in (
        ({}, {}, False),
        ({"function_to_apply": "softmax"}, {}, False),
        ({"function_to_apply": "sigmoid"}, {"multi_label": True}, False),
        ({"function_to_apply": "none"}, {"logits": True}, True),
    ):
        (output,) = live.outputs(task, TEXTS[0], **parameters)
        values = dict(zip("abcd", output["logits"], strict=True)) if raw else output["scores"]
        expected = sorted(values.items(), key=lambda one: -one[1])
        for count in (None, 2):
            found = client.text_classification(TEXTS[0], top_k=count, **given)
            assert close([(one.label, one.score) for one in found], expected[:count])
    several = live.client.post("/", json={"inputs": TEXTS, "parameters": {"adapter_id": task}}).json()
    assert [row[0]["label"] for row in several] == [output["label"] for output in live.outputs(task)]
    pairs = live.client.post("/", json={"inputs": [PAIR], "model": task}).json()
    assert close(pairs[0][0]["score"], live.outputs(task, [PAIR])[0]["score"])
    value = live.add(kind="regress", labels=1)
    (one,) = asks(value).text_classification(TEXTS[0])
    assert one.score == pytest.approx(live.outputs(value, TEXTS[0])[0]["value"], abs=1e-4)


def test_token_classification(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add("names", kind="tokens", labels=3)
    assert live.client.put(f"/v1/tasks/{task}", json={"labels": ["B-PER", "I-PER", "LOC"]}).status_code == 200
    client = asks(task)
    for strategy in (None, "simple", "first", "average", "max"):
        parameters = {} if strategy is None else {"aggregation": strategy}
        expected = live.outputs(task, TEXTS[0], **parameters)[0]["entities"]
        found = client.token_classification(TEXTS[0], aggregation_strategy=strategy)
        assert close([(o.entity_group, o.word, o.start, o.end, o.score) for o in found], [
            (o["entity_group"], o["word"], o["start"], o["end"], o["score"]) for o in expected
        ])  # fmt: skip
    each = client.token_classification(TEXTS[0], aggregation_strategy="none")
    assert [one.word for one in each] == TEXTS[0].split()
    assert [one["index"] for one in each] == [1, 2, 3]
    assert [one["entity"] in ("PER", "LOC") for one in each]
    with pytest.raises(HfHubHTTPError, match="422"):
        client.token_classification(TEXTS[0], stride=3)


def test_question_answering(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add("answers", kind="span", labels=2)
    question, context = "w1 w2", "w3 w4 w5 w6 w7"
    inputs = {"text": question, "text_pair": context}
    (expected,) = live.outputs(task, [inputs], top_k=3)
    client = asks(task)
    one = client.question_answering(question=question, context=context)
    assert close(
        (one.answer, one.start, one.end, one.score), tuple(expected[n] for n in ("answer", "start", "end", "score"))
    )
    several = client.question_answering(question=question, context=context, top_k=3)
    assert close([(o.answer, o.score) for o in several], [(o["answer"], o["score"]) for o in expected["answers"]])
    (short,) = live.outputs(task, [inputs], max_answer_tokens=1)
    found = client.question_answering(question=question, context=context, max_answer_len=1)
    assert (found.answer, found.start) == (short["answer"], short["start"])
    for refused in ({"doc_stride": 3}, {"max_seq_len": 9}, {"handle_impossible_answer": True}):
        with pytest.raises(HfHubHTTPError, match="422"):
            client.question_answering(question=question, context=context, **refused)


def test_errors(live: Live, asks: Callable[[str], InferenceClient]) -> None:
    task = live.add(labels=2)
    with pytest.raises(HfHubHTTPError, match="424"):
        asks("nobody").text_classification("w1")
    for body, message in (
        ({"inputs": 3}, "inputs"),
        ({}, "inputs"),
        ({"inputs": []}, "no input"),
        ({"inputs": "w1", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "w1", "parameters": {"function_to_apply": "tanh"}}, "'function_to_apply' is softmax"),
        ({"inputs": "w1", "parameters": {"candidate_labels": ["x"]}}, "'candidate_labels' is not supported"),
        ({"inputs": "w1", "parameters": {"adapter_id": "other"}}, "several tasks"),
        ({"inputs": "w1", "stream": True}, "'stream' is for tasks that generate"),
        ({"inputs": "w1 " * 500}, "tokens"),
        ({"inputs": ["w1"] * 2049}, "2049"),
    ):
        answer = live.client.post(f"/models/{task}", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error_type"] == "validation"
        assert message in answer.json()["error"]
    answer = live.client.post(f"/models/{task}/pipeline/token-classification", json={"inputs": "w1"})
    assert answer.status_code == 422
    assert "as the pipeline 'text-classification'" in answer.json()["error"]
    live.wait_idle()


def test_health_and_info(live: Live) -> None:
    client = InferenceClient(model=f"http://{live.host}:{live.port}", provider="hf-inference", token="none")
    assert client.health_check()
    assert client.get_endpoint_info()["model_id"] == live.backbone.name


@pytest.mark.parametrize(
    ("kind", "count", "inputs"),
    [
        ("classify", 3, ["w1", TEXTS]),
        ("regress", 1, ["w1", TEXTS]),
        ("rerank", 1, [PAIR, [PAIR, PAIR]]),
        ("tokens", 3, ["w1 w2", TEXTS]),
        ("span", 2, [{"question": "w1", "context": "w2 w3"}, [{"question": "w1", "context": "w2 w3"}] * 2]),
        ("embed", 0, ["w1", TEXTS, {"source_sentence": "w1", "sentences": TEXTS}]),
    ],
)
def test_answers_have_the_documented_form(live: Live, kind: Any, count: int, inputs: list[Any]) -> None:
    task = live.add(kind=kind, labels=count)
    for one in inputs:
        answer = live.client.post(f"/models/{task}", json={"inputs": one})
        assert answer.status_code == 200, answer.text
        assert HubAnswer.model_validate(answer.json())
        named = live.client.post("/", json={"inputs": one, "parameters": {"adapter_id": task}})
        assert close(named.json(), answer.json())


def test_own_parameters_are_refused_where_they_are_not_followed(live: Live) -> None:
    for kind, body, name in (
        ("classify", {"parameters": {"logits": True}}, "logits"),
        ("tokens", {"parameters": {"aggregation": "max"}}, "aggregation"),
        ("embed", {"pooling": "cls"}, "pooling"),
    ):
        task = live.add(kind=kind)  # type: ignore[arg-type]
        answer = live.client.post(f"/models/{task}", json={"inputs": "w1"} | body)
        assert answer.status_code == 422, answer.text
        assert f"'{name}' is not supported" in answer.json()["error"]

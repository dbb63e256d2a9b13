"""Real answers have the form that /openapi.json says, every field of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from manyhats.api import answers, lorax_answers, outputs, predictions
from manyhats.api.app import openapi_schema
from manyhats.api.openai import answers as openai_answers
from manyhats.methods.heads import KindName
from pydantic import BaseModel

from tests import tiny
from tests.api.generating import add, events
from tests.api.live import Live, adapter_files, fresh, serving


@pytest.fixture(scope="module")
def speaking(base_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone generates."""
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    return openapi_schema()["paths"]


def assert_is(model: type[BaseModel], body: Any) -> None:
    """The body is of the model, and has no field that the model does not know."""
    assert model.model_validate(body).model_dump(exclude_unset=True) == body


def assert_answers(
    paths: dict[str, Any], operation: str, model: type[BaseModel], answer: httpx.Response, status: int = 200
) -> Any:
    """The operation is documented with the model, and has answered with one. Returns the body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    method, path = operation.split()
    content = paths[path][method.lower()]["responses"][str(status)]["content"]
    assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    assert_is(model, answer.json())
    return answer.json()


def test_tasks_and_versions(live: Live, paths: dict[str, Any]) -> None:
    task, files = fresh(), adapter_files(live.backbone)
    body = answers.TaskBody
    assert_answers(paths, "POST /v1/tasks/{task}/versions", answers.UploadedBody, live.upload(task, files), 201)
    assert_answers(paths, "POST /v1/tasks/{task}/versions", answers.UploadedBody, live.upload(task, files))
    live.upload(task, adapter_files(live.backbone))
    client, own = live.client, f"/v1/tasks/{task}"
    asked = {
        "GET /v1/tasks": (answers.TaskList, client.get("/v1/tasks")),
        "PUT /v1/tasks/{task}": (body, client.put(own, json={"labels": ["a", "b", "c"], "defaults": {"top_k": 2}})),
        "GET /v1/tasks/{task}/versions/{number}": (answers.TaskVersion, client.get(f"{own}/versions/1")),
        "POST /v1/tasks/{task}/load": (answers.TaskSummary, client.post(f"{own}/load")),
        "POST /v1/tasks/{task}/pin": (body, client.post(f"{own}/pin")),
        "POST /v1/tasks/{task}/unpin": (body, client.post(f"{own}/unpin")),
        "POST /v1/tasks/{task}/unload": (answers.TaskSummary, client.post(f"{own}/unload")),
        "POST /v1/tasks/{task}/lift": (answers.TaskSummary, client.post(f"{own}/lift")),
        "POST /v1/tasks/{task}/rollback": (body, client.post(f"{own}/rollback", json={})),
    }
    for operation, (model, answer) in asked.items():
        assert_answers(paths, operation, model, answer)
    split = {"split": [{"version": 1, "weight": 1}, {"version": 2, "weight": 3.5}]}
    operation = "PUT /v1/tasks/{task}/aliases/{alias}"
    assert_answers(paths, operation, body, client.put(f"{own}/aliases/canary", json=split))
    assert_answers(paths, "GET /v1/tasks/{task}", body, client.get(own))
    assert_answers(paths, "GET /v1/tasks/{task}", body, client.get("/v1/tasks/base"))
    operation = "DELETE /v1/tasks/{task}/aliases/{alias}"
    assert_answers(paths, operation, body, client.delete(f"{own}/aliases/canary"))
    for path, model in (
        ("/healthz", answers.Alive),
        ("/readyz", answers.ReadyBody),
        ("/v1/imports", answers.ImportList),
    ):
        assert_answers(paths, f"GET {path}", model, client.get(path))


KINDS: dict[KindName, tuple[type[BaseModel], Any, list[dict[str, Any]]]] = {
    "classify": (outputs.ClassifyOutput, "w1 w2", [{}, {"logits": True}, {"multi_label": True}, {"top_k": 2}]),
    "tokens": (outputs.TokensOutput, "w1 w2", [{}, {"logits": True}]),
    "regress": (outputs.RegressOutput, "w1 w2", [{}]),
    "rerank": (outputs.RerankOutput, {"text": "w1", "text_pair": "w2"}, [{}]),
    "span": (outputs.SpanOutput, {"text": "w1", "text_pair": "w2 w3"}, [{}, {"top_k": 2, "logits": True}]),
    "embed": (outputs.EmbedOutput, "w1 w2", [{}, {"pooling": "none"}]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_by_kind(live: Live, paths: dict[str, Any], kind: KindName) -> None:
    output, text, parameters = KINDS[kind]
    labels = {"regress": 1, "rerank": 1, "span": 2}.get(kind, 3)
    task = live.add(kind, kind=kind, labels=labels)
    for given in parameters:
        answer = live.ask(task, [text], **given)
        body = assert_answers(paths, "POST /v1/tasks/{task}/predict", predictions.Prediction, answer)
        for one in body["outputs"]:
            assert_is(output, one)
    many = live.client.post("/v1/predict", json={"tasks": [task, "nobody"], "inputs": text})
    assert "error" in assert_answers(paths, "POST /v1/predict", predictions.PredictionList, many)["results"][1]


def test_generated_texts(speaking: Live, paths: dict[str, Any]) -> None:
    task = add(speaking)
    for given in ({}, {"n": 2, "temperature": 1.0}, {"logprobs": 2, "prompt_logprobs": 1}):
        answer = speaking.ask(task, "w1 w2", max_new_tokens=3, **given)
        body = assert_answers(paths, "POST /v1/tasks/{task}/predict", predictions.Prediction, answer)
        assert_is(outputs.GenerateOutput, body["outputs"][0])
    for given in ({}, {"n": 2, "temperature": 1.0, "logprobs": 1}):
        *steps, whole, done = events(speaking.ask(task, "w1 w2", max_new_tokens=3, stream=True, **given))
        assert steps
        for step in steps:
            assert_is(predictions.PredictionEvent, step)
        assert_is(predictions.Prediction, whole)
        assert done == "[DONE]"


def test_openai_s_answers(speaking: Live, paths: dict[str, Any]) -> None:
    client, task = speaking.client, add(speaking, chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert_answers(paths, "GET /v1/models", openai_answers.ModelList, client.get("/v1/models"))
    assert_answers(paths, "GET /v1/models/{model}", openai_answers.ModelBody, client.get(f"/v1/models/{task}"))
    asked: dict[str, Any] = {"model": task, "max_tokens": 3, "prompt_logprobs": 1}
    completion, chat = {"prompt": "w1 w2", "logprobs": 2}, {"messages": [{"role": "user", "content": "w1"}]}
    scored = {"logprobs": True, "top_logprobs": 2}
    for given in (completion, completion | {"echo": True, "n": 2}):
        answer = client.post("/v1/completions", json=asked | given)
        assert_answers(paths, "POST /v1/completions", openai_answers.Completion, answer)
    for more in ({}, scored):
        answer = client.post("/v1/chat/completions", json=asked | chat | more)
        assert_answers(paths, "POST /v1/chat/completions", openai_answers.ChatCompletion, answer)
    del asked["prompt_logprobs"]
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    for event in events(client.post("/v1/completions", json=asked | completion))[:-1]:
        assert_is(openai_answers.Completion, event)
    for event in events(client.post("/v1/chat/completions", json=asked | chat | scored))[:-1]:
        assert_is(openai_answers.ChatCompletionChunk, event)


def test_lorax_s_answers(speaking: Live, paths: dict[str, Any]) -> None:
    details = {"details": True, "decoder_input_details": True, "return_k_alternatives": 2, "top_n_tokens": 2, "seed": 1}
    for given in ({}, {"details": True}, details):
        asked = {"inputs": "w1 w2", "parameters": {"max_new_tokens": 3} | given}
        assert_answers(paths, "POST /generate", lorax_answers.Generated, speaking.client.post("/generate", json=asked))
    asked["parameters"].pop("decoder_input_details")
    answer = speaking.client.post("/generate_stream", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    for event in events(answer):
        assert_is(lorax_answers.GenerateEvent, event)

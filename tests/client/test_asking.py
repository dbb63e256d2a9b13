"""Questions and their typed answers."""

from __future__ import annotations

import httpx
import manyhats_client as mc
import pytest

from tests.client.driver import Driver, Server, driven

OUTPUTS = {
    "classify": {"label": "spam", "score": 0.9, "scores": {"spam": 0.9, "ham": 0.1}, "logits": [2.0, -0.2]},
    "tokens": {
        "tokens": [{"text": "Lyon", "start": 0, "end": 4, "label": "B-LOC", "score": 0.8}],
        "entities": [{"entity_group": "LOC", "word": "Lyon", "start": 0, "end": 4, "score": 0.8}],
        "logits": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]],
    },
    "regress": {"value": 3.25},
    "rerank": {"score": 0.75},
    "span": {"answer": "Lyon", "start": 3, "end": 7, "score": 0.7},
    "embed": {"embedding": [0.5, -0.5]},
    "generate": {"text": " hat", "finish_reason": "length", "tokens": [5, 9]},
    "fill": {
        "text": "a red hat",
        "masks": [{"start": 2, "end": 8, "fills": [{"text": "red", "token": 7, "score": 0.5}]}],
    },
}
MODELS = {
    "classify": (mc.ClassifyAnswer, mc.ClassifyOutput),
    "tokens": (mc.TokensAnswer, mc.TokensOutput),
    "regress": (mc.RegressAnswer, mc.RegressOutput),
    "rerank": (mc.RerankAnswer, mc.RerankOutput),
    "span": (mc.SpanAnswer, mc.SpanOutput),
    "embed": (mc.EmbedAnswer, mc.EmbedOutput),
    "generate": (mc.GenerateAnswer, mc.GenerateOutput),
    "fill": (mc.FillAnswer, mc.FillOutput),
}


def answer(kind: str = "classify", task: str = "spam", **fields: object) -> dict[str, object]:
    return {
        "id": "pred-1",
        "task": task,
        "version": 3,
        "sha256": "ab" * 32,
        "kind": kind,
        "outputs": [OUTPUTS.get(kind, {"novel": 1})],
        "usage": {"input_tokens": 7, "output_tokens": 0},
        "timing": {"queue_ms": 0.5, "load_ms": 0.0, "compute_ms": 2.5},
    } | fields


@pytest.mark.parametrize("of", OUTPUTS)
def test_each_kind_has_its_own_type(client: Driver, server: Server, of: str) -> None:
    server.replies = [httpx.Response(200, json=answer(of))]
    given = client.predict("spam", "a text")
    whole, one = MODELS[of]
    assert type(given) is whole
    assert type(given.outputs[0]) is one
    assert given.outputs[0].model_dump(exclude_unset=True) == OUTPUTS[of]
    assert (given.id, given.task, given.version, given.sha256, given.kind) == (
        "pred-1",
        "spam",
        3,
        "ab" * 32,
        of,
    )
    assert (given.usage.input_tokens, given.timing.compute_ms) == (7, 2.5)
    assert given.warnings == []
    assert given.batch is None


def test_one_vector_for_every_token(client: Driver, server: Server) -> None:
    vectors = [[0.5, 1.0], [2.0, 3.0]]
    server.replies = [httpx.Response(200, json=answer("embed", outputs=[{"embedding": vectors}]))]
    assert client.predict("e", "x", pooling="none").outputs[0].embedding == vectors
    assert server.body == {"inputs": "x", "parameters": {"pooling": "none"}}


def test_what_a_newer_server_adds_is_kept(client: Driver, server: Server) -> None:
    warning = {"input": 0, "code": "truncated", "message": "the input was cut to 8 tokens", "tokens": 12}
    batch = {"id": 4, "sequences": 9, "tasks": 3, "methods": ["lora", "mask"]}
    body = answer(warnings=[warning], batch=batch, mood="good")
    server.replies = [httpx.Response(200, json=body)]
    given = client.predict("spam", "x")
    assert given.warnings[0].code == "truncated"
    assert given.warnings[0].model_dump() == warning
    assert given.batch.model_dump() == batch
    assert given.mood == "good"


def test_a_kind_that_is_not_known(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=answer("rank"))]
    given = client.predict("spam", "x")
    assert type(given) is mc.OtherAnswer
    assert given.kind == "rank"
    assert given.outputs == [{"novel": 1}]


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        ("one", "one"),
        (["one", "two"], ["one", "two"]),
        (("one", "two"), ["one", "two"]),
        ((text for text in ("one", "two")), ["one", "two"]),
        ({"text": "q", "text_pair": "c"}, {"text": "q", "text_pair": "c"}),
        ([{"text": "q", "text_pair": "c"}, "one"], [{"text": "q", "text_pair": "c"}, "one"]),
        ("naïve 日本 😀", "naïve 日本 😀"),
    ],
)
def test_inputs(kind: str, inputs: mc.Inputs, sent: object) -> None:
    if not isinstance(inputs, (str, dict, list, tuple)):
        inputs = iter(["one", "two"])  # the parameter's own can be read once only
    server = Server([httpx.Response(200, json=answer())])
    with driven(kind, server) as client:
        client.predict("spam", inputs)
    assert server.asked == ("POST", "/v1/tasks/spam/predict")
    assert server.body == {"inputs": sent}


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("spam@canary", "spam%40canary"),
        ("spam@3", "spam%403"),
        ("a/b", "a%2Fb"),
        ("a b?c#d", "a%20b%3Fc%23d"),
        ("naïve", "na%C3%AFve"),
        ("100%41", "100%2541"),
        ("../x", "..%2Fx"),
    ],
)
def test_names_are_encoded(client: Driver, server: Server, task: str, path: str) -> None:
    server.replies = [httpx.Response(200, json=answer())]
    client.predict(task, "x")
    assert server.asked == ("POST", f"/v1/tasks/{path}/predict")


@pytest.mark.parametrize("task", ["", ".", ".."])
def test_names_that_would_be_another_route(client: Driver, server: Server, task: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        client.delete(task)
    assert server.requests == []


def test_many_questions(client: Driver, server: Server) -> None:
    failed = {
        "message": "The task `x` does not exist.",
        "type": "NotFoundError",
        "param": "task",
        "code": 404,
    }
    results = [answer("embed", "e"), {"task": "x", "error": failed}, answer("classify", "spam")]
    server.replies = [httpx.Response(200, json={"results": results})]
    first, second, third = client.predict_many(
        [
            {"task": "e", "inputs": ["a", "b"], "parameters": {"normalize": True}},
            {"task": "x", "inputs": "a"},
            {"task": "spam", "inputs": {"text": "a"}},
        ]
    )
    assert server.asked == ("POST", "/v1/predict")
    assert server.body == {
        "requests": [
            {"task": "e", "inputs": ["a", "b"], "parameters": {"normalize": True}},
            {"task": "x", "inputs": "a"},
            {"task": "spam", "inputs": {"text": "a"}},
        ]
    }
    assert [type(one) for one in (first, second, third)] == [mc.EmbedAnswer, mc.Failure, mc.ClassifyAnswer]
    assert second.task == "x"
    assert second.error.param == "task"
    raised = mc.exception_of(second)
    assert type(raised) is mc.NotFound
    assert raised.message == "The task `x` does not exist."


def test_several_tasks(client: Driver, server: Server) -> None:
    results = [answer("regress", "r"), answer("classify", "spam")]
    server.replies = [httpx.Response(200, json={"results": results})]
    given = client.predict_tasks(["r", "spam@2"], "x", truncate=True)
    assert server.asked == ("POST", "/v1/predict")
    assert server.body == {"tasks": ["r", "spam@2"], "inputs": "x", "parameters": {"truncate": True}}
    assert [one.task for one in given] == ["r", "spam"]


def test_a_result_is_missing(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json={"results": [answer()]})]
    with pytest.raises(mc.InvalidAnswer, match="1 results for 2 questions"):
        client.predict_tasks(["a", "b"], "x")


def test_streams_are_refused_before_they_are_asked_for(client: Driver, server: Server) -> None:
    with pytest.raises(ValueError, match="does not stream"):
        client.predict("poem", "x", stream=True)
    assert server.requests == []

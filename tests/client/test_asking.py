"""Questions and their typed answers."""

from __future__ import annotations

import sys

import httpx
import manyhats_client as mc
import numpy as np
import pytest

from tests.client.driver import Driver, Server, driven, error

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
    first, second, third = client.predict_batch(
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
    for ask in (client.predict, client.generate, client.chat, client.generate_stream):
        with pytest.raises(ValueError, match="this call does not stream"):
            ask("poem", "x", stream=True)
    assert server.requests == []


def test_a_task_that_does_not_generate(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=answer("classify"))]
    with pytest.raises(mc.WrongKind, match="`spam` is of kind classify and does not generate"):
        client.generate("spam", "x")


# ---- options of a call


def test_each_call_has_options_of_its_own(client: Driver, server: Server) -> None:
    server.replies = [error(503), error(503), httpx.Response(200, json=answer(), headers={"X-Request-Id": "theirs"})]
    with pytest.raises(mc.ServerNotReady) as raised:
        client.predict("spam", "x", retries=1, timeout=3.5, headers={"X-Request-Id": "mine", "X-Team": "blue"}, top_k=1)
    assert (len(server.requests), raised.value.request_id) == (2, "mine")
    assert set(server.requests[0].extensions["timeout"].values()) == {3.5}
    assert server.requests[0].headers["x-team"] == "blue"
    assert server.body == {"inputs": "x", "parameters": {"top_k": 1}}
    assert client.predict("spam", "x", parameters={"own": 2}).request_id == "theirs"
    assert set(server.requests[2].extensions["timeout"].values()) == {60.0}
    assert server.body["parameters"] == {"own": 2}


def test_an_option_that_there_is_not(client: Driver, server: Server) -> None:
    with pytest.raises(TypeError, match="top_k: there are no such options; there are headers, retries, timeout"):
        client.task("spam", top_k=1)
    with pytest.raises(ValueError, match="retries is -1"):
        client.task("spam", retries=-1)


def test_the_id_of_a_request_is_new_and_is_known(client: Driver, server: Server) -> None:
    results = [answer(), {"task": "x", "error": {"message": "no", "code": 404}}]
    server.replies = [httpx.Response(200, json={"results": results})]
    for _ in range(2):
        one, other = client.predict_tasks(["a", "b"], "x")
    first, second = (request.headers["x-request-id"] for request in server.requests)
    assert first != second
    assert one.request_id == other.request_id == mc.exception_of(other).request_id == second
    assert "request_id" not in one.model_dump()


# ---- arrays and tables


def test_arrays(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=answer(outputs=[OUTPUTS["classify"]] * 2))]
    given = client.predict("spam", ["a", "b"], logits=True)
    assert given.numpy().tolist() == np.array([[2.0, -0.2]] * 2, dtype="float32").tolist()
    server.replies = [httpx.Response(200, json=answer("tokens"))]
    assert client.predict("ner", "a").outputs[0].numpy().shape == (3, 2)
    server.replies = [httpx.Response(200, json=answer("embed", outputs=[{"embedding": [[1, 2], [3, 4]]}]))]
    given = client.predict("e", "a", pooling="none")
    assert (given.numpy().shape, given.numpy().dtype) == ((1, 2, 2), np.float32)
    server.replies = [httpx.Response(200, json=answer(outputs=[{"label": "a", "score": 1, "scores": {"a": 1}}]))]
    with pytest.raises(ValueError, match="ask with logits=True"):
        client.predict("spam", "a").numpy()


def test_tables(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=answer(outputs=[OUTPUTS["classify"]] * 2))]
    table = client.predict("spam", ["a", "b"]).to_pandas()
    assert table[["task", "version", "input", "label", "scores.spam"]].values.tolist() == [
        ["spam", 3, 0, "spam", 0.9],
        ["spam", 3, 1, "spam", 0.9],
    ]
    server.replies = [httpx.Response(200, json=answer("tokens"))]
    assert client.predict("ner", "a").to_pandas().loc[0, "text"] == "Lyon"
    server.replies = [httpx.Response(200, json={"results": [answer("rank"), {"error": {"message": "no"}}]})]
    table = mc.to_pandas(client.predict_tasks(["a", "b"], "x"))
    assert (table.loc[0, "novel"], table.loc[1, "error"]) == (1, "no")


@pytest.mark.parametrize("library", ["numpy", "pandas"])
def test_without_the_library_it_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    given = mc.EmbedAnswer.model_validate(answer("embed"))
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'manyhats-client\[{library}\]'"):
        given.numpy() if library == "numpy" else given.to_pandas()

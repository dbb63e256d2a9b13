"""Asking, over HTTP: every kind, every form of input, many tasks at once."""

from __future__ import annotations

import math
from functools import partial

import pytest
from manyhats.backbone import Text

from tests import tiny
from tests.api.live import (
    TEXTS,
    Gate,
    Live,
    adapter_files,
    assert_error,
    assert_error_body,
    at_once,
    close,
    fresh,
    wait_until,
)

METHODS = ("lora", "prefix", "bottleneck", "mask")


def expected(bert, method, texts, *, seed=7, pooling="none", **options):
    """What the adapter of that seed answers, alone and without a server."""
    adapter = tiny.adapter(bert, method, seed, **options)
    return [output.tolist() for output in tiny.ask(bert, adapter, texts, pooling)]


# ---- kinds


@pytest.mark.parametrize("method", METHODS)
def test_classify(live: Live, bert, method):
    task = live.add(method=method, labels=4, seed=7, settings={"labels": list("abcd")})
    body = live.ask(task, TEXTS, logits=True).json()
    assert set(body) >= {"id", "task", "version", "sha256", "kind", "outputs", "usage", "timing"}
    assert (body["task"], body["version"], body["kind"]) == (task, 1, "classify")
    assert body["sha256"] == live.client.get(f"/v1/tasks/{task}/versions/1").json()["sha256"]
    assert body["usage"] == {"input_tokens": 5 + 4 + 7, "output_tokens": 0}
    assert set(body["timing"]) == {"queue_ms", "load_ms", "compute_ms"}
    assert all(value >= 0 for value in body["timing"].values())
    assert "warnings" not in body
    logits = [output["logits"] for output in body["outputs"]]
    assert close(logits, expected(bert, method, TEXTS, kind="classify", labels=4))
    for output in body["outputs"]:
        assert set(output) == {"label", "score", "scores", "logits"}
        powers = [math.exp(value) for value in output["logits"]]
        assert output["scores"] == pytest.approx({k: p / sum(powers) for k, p in zip("abcd", powers, strict=True)})
        assert output["label"] == max(output["scores"], key=output["scores"].get)
        assert output["score"] == output["scores"][output["label"]]


def test_classify_parameters(live: Live):
    task = live.add(labels=4)
    (plain,) = live.outputs(task, "w1")
    assert list(plain["scores"]) == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    (top,) = live.outputs(task, "w1", top_k=2)
    assert list(top["scores"]) == sorted(plain["scores"], key=plain["scores"].get, reverse=True)[:2]
    (several,) = live.outputs(task, "w1", multi_label=True, logits=True)
    sigmoids = {f"LABEL_{i}": 1 / (1 + math.exp(-x)) for i, x in enumerate(several["logits"])}
    assert several["scores"] == pytest.approx(sigmoids, abs=1e-5)
    assert several["labels"] == [label for label, score in sigmoids.items() if score >= 0.5]


@pytest.mark.parametrize("method", METHODS)
def test_tokens(live: Live, bert, method):
    labels = ["O", "B-X", "I-X"]
    task = live.add(method=method, kind="tokens", labels=3, seed=7, settings={"labels": labels})
    body = live.ask(task, "w1  w2 w3", logits=True, aggregation="none").json()
    assert body["kind"] == "tokens"
    (output,) = body["outputs"]
    assert close([output["logits"]], expected(bert, method, ["w1  w2 w3"], kind="tokens", labels=3))
    assert len(output["logits"]) == 5
    assert [(t["text"], t["start"], t["end"]) for t in output["tokens"]] == [("w1", 0, 2), ("w2", 4, 6), ("w3", 7, 9)]
    for token, logits in zip(output["tokens"], output["logits"][1:-1], strict=True):
        assert token["label"] == labels[logits.index(max(logits))]
        assert set(token) == {"text", "start", "end", "label", "score"}
    named = [token for token in output["tokens"] if token["label"] != "O"]
    assert [(e["entity_group"], e["word"], e["start"], e["end"]) for e in output["entities"]] == [
        ("X", token["text"], token["start"], token["end"]) for token in named
    ]
    assert all(set(e) == {"entity_group", "word", "start", "end", "score"} for e in output["entities"])
    for aggregation in ("simple", "first", "average", "max", "word"):
        assert "entities" in live.outputs(task, "w1 w2", aggregation=aggregation)[0]


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
def test_regress(live: Live, bert, method):
    task = live.add(method=method, kind="regress", labels=1, seed=7)
    body = live.ask(task).json()
    assert body["kind"] == "regress"
    assert close(
        [[output.pop("value")] for output in body["outputs"]], expected(bert, method, TEXTS, kind="regress", labels=1)
    )
    assert body["outputs"] == [{}] * 3


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_embed(live: Live, bert, method, pooling):
    task = live.add(method=method, kind="embed", seed=7)
    body = live.ask(task, TEXTS, pooling=pooling).json()
    assert body["kind"] == "embed"
    vectors = [output["embedding"] for output in body["outputs"]]
    assert close(vectors, expected(bert, method, TEXTS, pooling=pooling))
    unit = live.outputs(task, TEXTS, pooling=pooling, normalize=True)[0]["embedding"]
    for vector in unit if pooling == "none" else [unit]:
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    if pooling == "none":
        assert [len(vector) for vector in vectors] == [5, 4, 7]  # special tokens in, virtual ones out


# ---- forms of input


def test_every_form_of_input(live: Live, bert):
    task = live.add(kind="embed", seed=7)
    forms = ["w1 w2", {"text": "w1 w2"}, {"text": "w1", "text_pair": "w2 w3"}, {"text": "w5", "text_pair": None}]
    texts = [Text("w1 w2"), Text("w1 w2"), Text("w1", "w2 w3"), Text("w5")]
    vectors = [[vector] for vector in expected(bert, "lora", texts, pooling="mean")]
    for form, vector in zip(forms, vectors, strict=True):
        for inputs in (form, [form]):
            assert close([o["embedding"] for o in live.outputs(task, inputs)], vector)
    many = live.outputs(task, forms)
    assert close([o["embedding"] for o in many], [v for (v,) in vectors])
    assert len(live.outputs(task, ["w1"] * 300)) == 300


@pytest.mark.parametrize("text", ["w1 \x00 w2", "w1 ﷽ 𝔘 \U0010ffff", "‮w1", "é" * 20, "\t w1 \n"])
def test_odd_characters_are_only_characters(live: Live, text):
    task = live.add(kind="tokens")
    (output,) = live.outputs(task, text)
    assert [t["text"] for t in output["tokens"]] == text.split()
    assert all(text[t["start"] : t["end"]] == t["text"] for t in output["tokens"])


# ---- many at once


def test_many_requests_in_one_call(live: Live):
    tasks = [live.add(method=method, labels=labels) for method, labels in zip(METHODS, (2, 3, 4, 5), strict=True)]
    tasks += ["base"]
    asked = [{"task": task, "inputs": TEXTS[: i % 3 + 1]} for i, task in enumerate(tasks * 3)]
    asked[3]["parameters"] = {"logits": True}
    body = live.client.post("/v1/predict", json={"requests": asked})
    assert body.status_code == 200
    assert set(body.json()) == {"results"}
    results = body.json()["results"]
    assert [result["task"] for result in results] == tasks * 3
    for item, result in zip(asked, results, strict=True):
        assert close(result["outputs"], live.outputs(item["task"], item["inputs"], **item.get("parameters", {})))


def test_several_tasks_on_the_same_input(live: Live):
    tasks = [live.add(method=method, labels=labels) for method, labels in zip(METHODS, (2, 3, 4, 5), strict=True)]
    asked = {"tasks": tasks, "inputs": TEXTS, "parameters": {"top_k": 1}}
    results = live.client.post("/v1/predict", json=asked).json()["results"]
    assert [result["task"] for result in results] == tasks
    for task, result in zip(tasks, results, strict=True):
        assert close(result["outputs"], live.outputs(task, TEXTS, top_k=1))


def test_the_failure_of_one_stands_in_its_place(live: Live):
    good, short = live.add(), live.add()
    live.client.put(f"/v1/tasks/{short}", json={"max_tokens": 4})
    asked = [
        {"task": good, "inputs": "w1"},
        {"task": "no-such-task", "inputs": "w1"},
        {"task": good, "inputs": "w2", "parameters": {"pooling": "mean"}},
        {"task": good, "inputs": []},
        {"task": short, "inputs": "w1 w2 w3"},
        {"task": f"{good}@7", "inputs": "w1"},
        {"task": "", "inputs": "w1"},
        {"task": good, "inputs": "w3"},
    ]
    answer = live.client.post("/v1/predict", json={"requests": asked})
    assert answer.status_code == 200
    results = answer.json()["results"]
    for result, status in zip(results, (None, 404, 400, 400, 400, 404, 400, None), strict=True):
        if status:
            assert_error_body(result, status)
    assert close(results[0]["outputs"], live.outputs(good, "w1"))
    assert close(results[7]["outputs"], live.outputs(good, "w3"))
    answer = live.client.post("/v1/predict", json={"tasks": [good, "nobody", "base"], "inputs": "w1"})
    assert answer.status_code == 200
    assert ["error" in result for result in answer.json()["results"]] == [False, True, False]
    live.wait_idle()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requests": []},
        {"tasks": []},
        {"tasks": [], "inputs": "w1"},
        {"tasks": ["base"]},
        {"requests": [{"task": "base", "inputs": "w1"}], "tasks": ["base"], "inputs": "w1"},
        {"requests": [{"task": "base", "inputs": "w1"}], "inputs": "w1"},
        {"requests": [{"task": "base"}]},
        {"requests": [{"inputs": "w1"}]},
        {"requests": {"task": "base", "inputs": "w1"}},
        {"requests": ["base"]},
        {"tasks": "base", "inputs": "w1"},
        {"tasks": [1], "inputs": "w1"},
        {"tasks": ["base"], "inputs": "w1", "extra": 1},
    ],
)
def test_a_call_of_no_form_is_refused(live: Live, body):
    assert_error(live.client.post("/v1/predict", json=body), 400)


# ---- sharing batches


def test_requests_that_wait_together_run_together(live: Live, gate: Gate):
    tasks = [live.add(method=method, labels=labels) for method, labels in zip(METHODS, (2, 3, 4, 5), strict=True)]
    for task in tasks:
        live.client.post(f"/v1/tasks/{task}/load")

    def first():
        return live.outputs("base", "w9")

    def another(task: str):
        gate.wait_for(1)
        return live.ask(task).json()

    def opener():
        gate.wait_for(1)
        wait_until(lambda: sum(live.runtime.engine.waiting().values()) == 12, "twelve rows wait")
        gate.open()

    _, _, *bodies = at_once(first, opener, *(partial(another, task) for task in tasks))
    assert gate.batches == [1, 12]
    assert len({body["batch"]["id"] for body in bodies}) == 1
    assert bodies[0]["batch"] | {"id": 0} == {"id": 0, "sequences": 12, "tasks": 4, "methods": sorted(METHODS)}
    for task, body in zip(tasks, bodies, strict=True):
        assert close(body["outputs"], live.outputs(task))


def test_one_call_for_many_tasks_is_one_batch(live: Live):
    tasks = [live.add(method=method) for method in METHODS]
    for task in tasks:
        live.client.post(f"/v1/tasks/{task}/load")
    results = live.client.post("/v1/predict", json={"tasks": [*tasks, "base"], "inputs": TEXTS}).json()["results"]
    assert len({result["batch"]["id"] for result in results}) == 1
    assert results[0]["batch"]["sequences"] == 15


# ---- lengths


def test_what_is_too_long_is_refused_or_cut(live: Live):
    task = live.add(kind="embed")
    long = tiny.words(100, 3)
    error = assert_error(live.ask(task, ["w1", long]), 400, "102 tokens", "takes 64", "truncate")
    assert error["param"] == "inputs.1"
    body = live.ask(task, ["w1", long], truncate=True).json()
    (warning,) = body["warnings"]
    assert (warning["input"], warning["code"]) == (1, "truncated")
    assert "102" in warning["message"]
    assert "64" in warning["message"]
    assert close(body["outputs"][1], live.outputs(task, " ".join(long.split()[:62]))[0])
    live.client.put(f"/v1/tasks/{task}", json={"max_tokens": 10, "overflow": "truncate"})
    body = live.ask(task, long).json()
    assert "takes 10" in body["warnings"][0]["message"]
    assert body["usage"]["input_tokens"] == 10
    assert_error(live.ask(task, long, truncate=False), 400, "takes 10")


def test_virtual_tokens_take_of_the_length(live: Live):
    task = live.add(method="prefix", kind="embed", length=5)
    assert_error(live.ask(task, tiny.words(58, 1)), 400, "60 tokens", "takes 59")
    assert live.ask(task, tiny.words(57, 1)).status_code == 200


def test_a_hundred_thousand_characters(live: Live):
    task = live.add(kind="embed")
    for text in ("w1 " * 33_334, "x" * 100_000):
        answer = live.ask(task, text)
        if text[0] == "w":
            assert_error(answer, 400, r"at least \d+ tokens", "takes 64")
            answer = live.ask(task, text, truncate=True)
            assert answer.json()["warnings"][0]["code"] == "truncated"
        assert answer.status_code == 200


def test_a_text_over_the_limit_of_characters(start):
    with start(max_characters=1000) as live:
        error = assert_error(live.ask("base", ["w1", "x" * 1001]), 400, "1001", "1000")
        assert error["param"] == "inputs.1"


def test_ten_thousand_inputs_in_one_call(live: Live):
    many = ["w1"] * 10_000
    assert_error(live.ask("base", many), 413, "10000", "2048")
    assert_error(live.client.post("/v1/predict", json={"tasks": ["base"], "inputs": many}), 413)
    asked = {"requests": [{"task": "base", "inputs": "w1"}] * 10_000}
    assert_error(live.client.post("/v1/predict", json=asked), 413)
    assert_error(live.client.post("/v1/predict", json={"tasks": ["base"] * 10_000, "inputs": "w1"}), 413)
    # Neither list is long by itself, and their product must not be built.
    assert_error(live.client.post("/v1/predict", json={"tasks": ["x"] * 100_000, "inputs": ["w"] * 100_000}), 413)
    assert live.ask("base", ["w1"] * 2048).status_code == 200


# ---- labels


def test_labels_hold_only_for_heads_of_their_width(live: Live):
    task = fresh()
    live.upload(task, adapter_files(live.backbone, labels=2), task='{"labels": ["no", "yes"]}')
    live.upload(task, adapter_files(live.backbone, labels=3))
    assert list(live.outputs(f"{task}@1", "w1")[0]["scores"]) == ["no", "yes"]
    assert list(live.outputs(f"{task}@2", "w1")[0]["scores"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_defaults_of_a_task_yield_to_the_request(live: Live):
    task = live.add()
    live.client.put(f"/v1/tasks/{task}", json={"defaults": {"top_k": 1, "logits": True}})
    (output,) = live.outputs(task, "w1")
    assert (len(output["scores"]), "logits" in output) == (1, True)
    (output,) = live.outputs(task, "w1", top_k=3, logits=False)
    assert (len(output["scores"]), "logits" in output) == (3, False)

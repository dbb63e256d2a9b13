"""What a task answers, as its files or its settings say, and where its texts end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.api.live import Files, Live, adapter_files, assert_error, close, edited, fresh, serving

CONFIG = "adapter_config.json"


@pytest.fixture(scope="module")
def speaking(base_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone generates."""
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("store")) as running:
        yield running


def untyped(live: Live, **options: Any) -> Files:
    """The files of an adapter that do not say what it is for."""
    files = adapter_files(live.backbone, **options)
    del files["manyhats.json"]
    return edited(files, CONFIG, task_type=None)


def set_to(live: Live, task: str, **settings: Any) -> dict[str, Any]:
    answer = live.client.put(f"/v1/tasks/{task}", json=settings)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- kinds


def test_an_encoders_adapter_needs_a_word_of_what_it_is_for(live: Live):
    files, task = untyped(live, kind="embed"), fresh()
    error = assert_error(live.upload(task, files), 422)
    assert error["param"] == "kind"
    assert "`kind` in the part `task`: embed" in error["message"]
    answer = live.upload(task, files, task=json.dumps({"kind": "embed"}))
    assert (answer.status_code, answer.json()["kind"]) == (201, "embed")
    known = live.add(kind="embed", seed=5)
    again = untyped(live, kind="embed", seed=5)
    assert live.upload(task, again).json()["version"] == 2  # the task's own kind holds for its next version
    assert close(live.outputs(task), live.outputs(known))


def test_a_kind_that_is_no_kind_or_does_not_fit_is_refused_and_changes_nothing(live: Live):
    files = adapter_files(live.backbone)
    task = fresh()
    for kind in ("tokens", "regress", "generate", "embed"):
        error = assert_error(live.upload(task, files, task=json.dumps({"kind": kind})), 400)
        assert error["message"] == f"kind is '{kind}', but the adapter can only be: classify"
    assert_error(live.upload(task, files, task=json.dumps({"kind": "guess"})), 400)
    assert_error(live.client.get(f"/v1/tasks/{task}"), 404)
    live.upload(task, files)
    live.wait_loaded()
    before = live.client.get(f"/v1/tasks/{task}").json()
    for kind in ("tokens", "regress", "generate", "guess", 1):
        assert assert_error(live.client.put(f"/v1/tasks/{task}", json={"kind": kind}), 400)["param"] == "kind"
    assert live.client.get(f"/v1/tasks/{task}").json() == before


def test_one_output_is_a_value_or_the_score_of_a_label(live: Live):
    task = live.add(kind="regress", labels=1)
    (value,) = live.outputs(task, "w1 w2")
    assert set_to(live, task, kind="classify", labels=["toxic"])["kind"] == "classify"
    (output,) = live.outputs(task, "w1 w2", logits=True)
    assert output["logits"] == [value["value"]]
    assert output["scores"]["toxic"] == output["score"] != 1
    assert output["labels"] == (["toxic"] if value["value"] > 0 else [])
    error = assert_error(live.ask(task, "w1 w2", multi_label=False), 400)
    assert "multi_label" in error["param"]
    assert live.client.get("/v1/tasks", params={"limit": 1000}).json()["data"]
    assert set_to(live, task, kind=None)["kind"] == "regress"
    assert live.outputs(task, "w1 w2") == [value]


def test_a_decoders_adapter_generates_or_embeds(speaking: Live):
    files, task = untyped(speaking, kind="generate"), fresh()
    answer = speaking.upload(task, files).json()
    assert answer["kind"] == "generate"
    assert "it is taken for one that generates" in answer["warnings"][0]
    (text,) = speaking.outputs(task, "w1 w2", max_new_tokens=5)
    assert set_to(speaking, task, kind="embed", defaults={"pooling": "last"})["kind"] == "embed"
    (vector,) = speaking.outputs(task, "w1 w2")
    assert len(vector["embedding"]) == speaking.backbone.output_width
    error = assert_error(speaking.client.post("/v1/completions", json={"model": task, "prompt": "w1"}), 400)
    assert "is of kind 'embed'" in error["message"]
    (listed,) = [t for t in speaking.client.get("/v1/tasks").json()["data"] if t["name"] == task]
    assert listed["kind"] == "embed"
    assert assert_error(speaking.client.put(f"/v1/tasks/{task}", json={"defaults": {"seed": 1}}), 400)
    set_to(speaking, task, kind="generate", defaults={"max_new_tokens": 5})
    assert speaking.outputs(task, "w1 w2") == [text]


def test_the_same_files_are_not_read_for_two_things(live: Live):
    files, task = untyped(live, kind="classify"), fresh()
    assert live.upload(task, files, task=json.dumps({"kind": "classify"})).json()["kind"] == "classify"
    error = assert_error(live.upload(fresh(), files, task=json.dumps({"kind": "tokens"})), 409)
    assert f"{task}@1 of kind 'classify'" in error["message"]


def test_a_kind_outlives_the_server(start, tmp_path: Path):
    with start() as live:
        files, task = untyped(live, kind="classify", labels=4), fresh()
        live.upload(task, files, task=json.dumps({"kind": "tokens"}))
        expected = live.outputs(task, "w1 w2 w3", logits=True)
    with start() as live:
        assert live.client.get(f"/v1/tasks/{task}").json()["kind"] == "tokens"
        assert live.outputs(task, "w1 w2 w3", logits=True) == expected


# ---- a model's config beside the adapter


def test_several_labels_at_once_by_the_models_config(live: Live):
    files = adapter_files(live.backbone, labels=3)
    del files["manyhats.json"]
    config = {"problem_type": "multi_label_classification", "id2label": {"0": "red", "1": "green", "2": "blue"}}
    task = fresh()
    answer = live.upload(task, files | {"config.json": json.dumps(config).encode()}).json()
    assert sum("taken from" in warning for warning in answer["warnings"]) == 2
    shown = live.client.get(f"/v1/tasks/{task}").json()
    assert (shown["labels"], shown["defaults"]) == (["red", "green", "blue"], {"multi_label": True})
    assert shown["warnings"] == answer["warnings"]
    (output,) = live.outputs(task, "w1 w2")
    assert output == live.outputs(task, "w1 w2", multi_label=True)[0]
    (single,) = live.outputs(task, "w1 w2", multi_label=False)
    assert sum(single["scores"].values()) == pytest.approx(1)
    assert set_to(live, task, defaults={"top_k": 1})["defaults"] == {"multi_label": True, "top_k": 1}
    assert set_to(live, task, defaults={"multi_label": False})["defaults"] == {"multi_label": False}
    assert live.outputs(task, "w1 w2") == [single]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0": "a", "1": "b", "2": "c"}, "labels"),
        (["a", "a", "b"], "two labels are called 'a'"),
        (["", "x", "y"], "label 0 is empty"),
        (["x", " ", "y"], "label 1 is empty"),
        ([], "labels"),
    ],
)
def test_labels_that_name_nothing_are_refused(live: Live, labels: Any, said: str):
    task = live.add(labels=3)
    error = assert_error(live.client.put(f"/v1/tasks/{task}", json={"labels": labels}), 400)
    assert error["param"] == "labels"
    assert said in error["message"]


# ---- the end of a text


def test_a_tasks_own_tokens_end_its_texts(speaking: Live):
    task = speaking.add("text", kind="generate", seed=11)
    (whole,) = speaking.outputs(task, "w1 w2 w3", max_new_tokens=12, ignore_eos=True)
    tokens = whole["tokens"]
    stop = tokens[5]
    first = tokens.index(stop)
    assert set_to(speaking, task, stop_token_ids=[stop, 104])["stop_token_ids"] == [stop, 104]
    (cut,) = speaking.outputs(task, "w1 w2 w3", max_new_tokens=12)
    assert (cut["finish_reason"], cut["tokens"]) == ("stop", tokens[:first])
    assert speaking.outputs(task, "w1 w2 w3", max_new_tokens=12, ignore_eos=True) == [whole]
    set_to(speaking, task, stop_token_ids=None)
    assert speaking.outputs(task, "w1 w2 w3", max_new_tokens=12)[0]["tokens"] != tokens[:first]


@pytest.mark.parametrize("value", [[-1], [105], [1.5], ["1"], [True], 3, [1] * 65, [10**400]])
def test_stop_tokens_that_are_none_are_refused(speaking: Live, value: Any):
    task = speaking.add("text", kind="generate")
    body = json.dumps({"stop_token_ids": value})
    error = assert_error(speaking.client.put(f"/v1/tasks/{task}", content=body), 400)
    assert "stop_token_ids" in error["param"] or value == [10**400]
    assert_error(speaking.upload(fresh(), adapter_files(speaking.backbone, kind="generate"), task=body), 400)


def test_a_settings_put_goes_before_what_the_files_say(speaking: Live):
    files = adapter_files(speaking.backbone, kind="generate")
    del files["manyhats.json"]
    template = "{% for m in messages %}w9 {{ m.content }} {% endfor %}"
    generation = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": [7, 8]}
    files |= {"chat_template.jinja": template.encode(), "generation_config.json": json.dumps(generation).encode()}
    task = fresh()
    answer = speaking.upload(task, files).json()
    assert {"chat_template taken from chat_template.jinja"} < set(answer["warnings"])
    shown = speaking.client.get(f"/v1/tasks/{task}").json()
    own = {"chat_template": template, "stop_token_ids": [7, 8], "defaults": {"temperature": 0.0, "max_new_tokens": 3}}
    assert shown.items() >= own.items()
    chat = {"model": task, "messages": [{"role": "user", "content": "w1 w2"}]}
    usage = speaking.client.post("/v1/chat/completions", json=chat).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"] <= 3) == (3, True)
    other = "{% for m in messages %}{{ m.content }} w8 w9 {% endfor %}"
    changed = set_to(speaking, task, chat_template=other, stop_token_ids=[], defaults={"max_new_tokens": 2})
    assert (changed["chat_template"], changed["stop_token_ids"]) == (other, [])
    assert changed["defaults"] == {"temperature": 0.0, "max_new_tokens": 2}
    assert speaking.client.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"] == 4
    back = set_to(speaking, task, chat_template=None, stop_token_ids=None, defaults=None)
    assert back.items() >= own.items()

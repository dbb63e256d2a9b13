"""Roll-outs of tasks that write: shadows, evaluations, and OpenAI's `user`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhats.registry.rollout import chosen

from tests.api.generating import PROMPTS, events
from tests.api.live import Live, adapter_files
from tests.api.test_rollouts import HALF, set_alias, state, versions
from tests.waiting import wait_until

BACKBONE = "gpt2"


@pytest.fixture(scope="module")
def task(live: Live) -> str:
    return versions(live, *(adapter_files(live.backbone, kind="generate") for _ in range(2)))


def shadowed(live: Live, task: str) -> dict[str, Any]:
    def counted() -> dict[str, Any] | None:
        counts: dict[str, Any] = state(live, task)["shadow"]
        return counts if counts["answered"] else None

    return wait_until(counted, "the shadow has answered")  # type: ignore[no-any-return]


def test_a_shadow_writes_too_and_what_was_sampled_is_not_compared(live: Live, task: str) -> None:
    for parameters, compared in (({}, True), ({"temperature": 1.0}, False), ({"temperature": 1.0, "seed": 7}, True)):
        set_alias(live, task, version=1)
        set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
        texts = live.outputs(task, PROMPTS, **{"max_new_tokens": 4, "temperature": 0.0, **parameters})
        counts = shadowed(live, task)
        assert len(texts) == counts["agreed"] + counts["differed"] + counts["not_compared"]
        assert (counts["not_compared"] == 0) == compared


def test_a_stream_is_shadowed_and_its_client_gets_its_own_tokens_alone(live: Live, task: str) -> None:
    set_alias(live, task, version=1)
    body = {"inputs": "w1 w2", "parameters": {"max_new_tokens": 4, "stream": True}}
    with live.client.stream("POST", f"/v1/tasks/{task}/predict", json=body) as answer:
        expected = [e for e in events(answer) if "tokens" in e]
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
    with live.client.stream("POST", f"/v1/tasks/{task}/predict", json=body) as answer:
        assert [e for e in events(answer) if "tokens" in e] == expected
    assert shadowed(live, task)["failed"] == 0


def test_openais_user_keeps_its_version(live: Live, task: str) -> None:
    set_alias(live, task, split=HALF)
    body: dict[str, Any] = {"max_tokens": 24, "temperature": 0}

    def text(model: str, **more: Any) -> str:
        answer = live.client.post("/v1/completions", json={"model": model, **body, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    for prompt in PROMPTS:  # one that random weights answer differently
        body["prompt"] = prompt
        texts = {n: text(f"{task}@{n}") for n in (1, 2)}
        if texts[1] != texts[2]:
            break
    assert texts[1] != texts[2]
    for user in map(str, range(12)):
        assert text(task, user=user) == texts[chosen({1: 50, 2: 50}, f"{task}@stable", user)]
    assert {text(task, user=None) for _ in range(40)} == set(texts.values())


def test_texts_are_judged_by_exact_match(live: Live, task: str) -> None:
    parameters = {"temperature": 0.0, "max_new_tokens": 128}
    texts = [output["text"].strip() for output in live.outputs(f"{task}@1", PROMPTS, **parameters)]
    rows = [{"text": prompt, "label": text} for prompt, text in zip(PROMPTS, texts, strict=True)]
    set_alias(live, task, version=1)
    files = adapter_files(live.backbone, kind="generate")
    examples = "\n".join(map(json.dumps, rows))
    body = live.upload(task, files, examples=examples).json()
    assert not body["activated"]
    assert (body["evaluation"]["metric"], body["evaluation"]["baseline"]) == ("exact_match", 1.0)
    assert body["evaluation"]["value"] < 1

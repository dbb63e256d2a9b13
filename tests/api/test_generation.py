"""Texts over HTTP: streams of many tasks by our own route."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.engine.runner import Runner

from tests import tiny
from tests.api.generating import PROMPTS, add, events
from tests.api.live import Live, adapter_files, assert_error, close, fresh, serving, wait_until

BACKBONE = "llama"


def test_many_tasks_at_once_say_what_each_says_alone(live: Live, tasks: list[str]) -> None:
    asked = [(task, prompt) for task in tasks for prompt in PROMPTS]
    alone = [live.outputs(task, prompt, max_new_tokens=9) for task, prompt in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: live.outputs(one[0], one[1], max_new_tokens=9), asked))
    assert together == alone
    assert len({json.dumps(answer) for answer in alone}) > len(PROMPTS)
    live.wait_idle()


def test_a_stream_is_the_answer_in_pieces(live: Live, tasks: list[str]) -> None:
    for task in tasks:
        whole = live.ask(task, PROMPTS, max_new_tokens=5).json()
        body = {"inputs": PROMPTS, "parameters": {"max_new_tokens": 5, "stream": True}}
        with live.client.stream("POST", f"/v1/tasks/{task}/predict", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            *pieces, last, done = events(response)
        assert done == "[DONE]"
        assert last["outputs"] == whole["outputs"]
        for i, output in enumerate(whole["outputs"]):
            own = [piece for piece in pieces if piece["input"] == i]
            assert "".join(piece["text"] for piece in own) == output["text"]
            assert [token for piece in own for token in piece["tokens"]] == output["tokens"]
            assert [piece["finish_reason"] for piece in own][-1] == output["finish_reason"]
    live.wait_idle()


def test_the_same_seed_is_the_same_text_whatever_shares_the_batch(live: Live, tasks: list[str]) -> None:
    asked = {"max_new_tokens": 12, "temperature": 1.5, "top_p": 0.9, "seed": 7}
    alone = live.outputs(tasks[1], PROMPTS[0], **asked)
    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(live.outputs, task, PROMPTS[1], max_new_tokens=20, temperature=2.0) for task in tasks]
        assert [live.outputs(tasks[1], PROMPTS[0], **asked) for _ in range(3)] == [alone] * 3
        for other in others:
            other.result()
    different = {json.dumps(live.outputs(tasks[1], PROMPTS[0], **(asked | {"seed": s}))) for s in range(5)}
    assert len(different) > 1


def test_several_texts_of_one_prompt(live: Live) -> None:
    (output,) = live.outputs("base", PROMPTS[0], n=3, temperature=1.5, seed=1, max_new_tokens=8, logprobs=2)
    assert len(output["choices"]) == 3
    assert output["text"] == output["choices"][0]["text"]
    assert len({choice["text"] for choice in output["choices"]}) > 1
    for token in output["logprobs"]:
        assert token["logprob"] <= 0
        assert len(token["top"]) == 2
        assert token["top"][0]["logprob"] >= token["top"][1]["logprob"]


def test_stops_and_limits(live: Live) -> None:
    (whole,) = live.outputs("base", PROMPTS[2], max_new_tokens=20, ignore_eos=True)
    middle = len(whole["text"]) // 2
    stop = whole["text"][middle : middle + 3]
    (cut,) = live.outputs("base", PROMPTS[2], max_new_tokens=20, ignore_eos=True, stop=[stop, "never"])
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"].partition(stop)[0]
    (kept,) = live.outputs("base", PROMPTS[2], max_new_tokens=20, ignore_eos=True, stop=stop, include_stop=True)
    assert kept["text"] == cut["text"] + stop
    body = live.ask("base", PROMPTS[0], max_new_tokens=5000).json()
    assert body["warnings"][0]["code"] == "max_new_tokens"
    assert body["outputs"][0]["finish_reason"] in ("length", "stop")
    assert len(body["outputs"][0]["tokens"]) <= tiny.MAX_TOKENS


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": ["x"] * 17}, "16 stop strings"),
        ({"logit_bias": {"x": 1}}, "token numbers"),
        ({"logit_bias": {"999999": 1}}, "999999"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop_token_ids": [999999]}, "stop_token_ids names the token 999999"),
        ({"allowed_token_ids": [999999]}, "allowed_token_ids names the token 999999"),
        ({"pooling": "mean", "max_new_tokens": 3}, "no parameter 'max_new_tokens'"),
    ],
)
def test_wrong_parameters_are_named(live: Live, parameters: dict[str, Any], message: str) -> None:
    assert_error(live.ask("base", PROMPTS[0], **parameters), 400, message)


def test_no_parameters_and_nulls(live: Live) -> None:
    plain = live.outputs("base", PROMPTS[0])
    url = "/v1/tasks/base/predict"
    for parameters in (None, {}, dict.fromkeys(GenerateParameters.model_fields)):
        answer = live.client.post(url, json={"inputs": PROMPTS[0], "parameters": parameters})
        assert answer.json()["outputs"] == plain
        many = {"requests": [{"task": "base", "inputs": PROMPTS[0], "parameters": parameters}]}
        assert live.client.post("/v1/predict", json=many).json()["results"][0]["outputs"] == plain


def test_edges_that_are_allowed(live: Live) -> None:
    (plain,) = live.outputs("base", PROMPTS[0], max_new_tokens=5)
    for parameters in ({"stop": ""}, {"stop": [""]}, {"max_new_tokens": 5.0}, {"top_p": 0, "temperature": 1}):
        assert live.outputs("base", PROMPTS[0], **({"max_new_tokens": 5} | parameters)) == [plain]
    (several,) = live.outputs("base", PROMPTS[0], max_new_tokens=5, n=3)
    assert several["choices"] == [plain] * 3
    for seed in (-5, (1 << 64) - 1):
        asked = {"temperature": 1.5, "seed": seed, "max_new_tokens": 8, "ignore_eos": True}
        assert live.outputs("base", PROMPTS[0], **asked) == live.outputs("base", PROMPTS[0], **asked)
    asked = {"temperature": 2.0, "seed": -1, "max_new_tokens": 20, "ignore_eos": True}
    assert len({live.outputs("base", PROMPTS[0], **asked)[0]["text"] for _ in range(4)}) > 1


def test_prompts_that_do_not_fit(live: Live) -> None:
    long = tiny.words(80, 1)
    assert_error(live.ask("base", long), 400, "82 tokens", str(tiny.MAX_TOKENS - 1))
    classify = live.add(kind="classify")
    answer = live.client.post("/v1/completions", json={"model": classify, "prompt": "w1"})
    assert_error(answer, 400, "kind 'classify' and cannot generate")
    assert_error(live.ask(classify, "w1", max_new_tokens=4), 400, "kind 'classify'")
    body = {"inputs": "w1", "parameters": {"stream": True}}
    assert_error(live.client.post(f"/v1/tasks/{classify}/predict", json=body), 400, "kind 'classify'")


def test_who_hangs_up_frees_the_place(live: Live, tasks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that nobody reads any more is in no pass after the one under way."""
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 50, "stream": True, "ignore_eos": True}}
    passes: list[int] = []
    execute = Runner.execute

    def slowly(runner: Runner, batch: ScheduledBatch) -> list[SequenceOutput]:
        passes.append(len(batch.sequences))
        if len(passes) > 3:
            gone.wait(20)
        return execute(runner, batch)

    import threading

    gone = threading.Event()
    monkeypatch.setattr(Runner, "execute", slowly)
    engine = live.runtime.engine
    with live.new_client() as client, client.stream("POST", f"/v1/tasks/{tasks[1]}/predict", json=body) as response:
        next(response.iter_lines())
    wait_until(lambda: all(one.request.future.done() for one in engine.scheduler.running), "the server knows of it")
    before = len(passes)
    gone.set()
    live.wait_idle()
    wait_until(lambda: engine.scheduler.idle, "the place is free")
    assert len(passes) <= before + 1
    assert engine.cache.pool.used == 0


def test_one_client_cannot_take_the_whole_cache(base_folder: Any, tmp_path: Path) -> None:
    """A task with many long texts waits for its turn; others are answered among them."""
    backbone = tiny.load(base_folder("llama"))
    rows = 8 * 16
    kv_heads, dim = backbone.kv_shape
    with serving(
        backbone,
        tmp_path,
        cache_memory=rows * 2 * backbone.layers * kv_heads * dim * 4,
        max_num_batched_tokens=64,
        max_num_seqs=8,
    ) as live:
        greedy, other = add(live), add(live)
        lone = live.outputs(other, PROMPTS[0], max_new_tokens=10)
        with ThreadPoolExecutor(12) as pool:
            many = [pool.submit(live.outputs, greedy, tiny.words(20, i), max_new_tokens=35) for i in range(10)]
            assert live.outputs(other, PROMPTS[0], max_new_tokens=10) == lone
            assert sum(not one.done() for one in many) > 0
            for one in many:
                one.result()
        live.wait_idle()
        assert live.runtime.engine.cache.pool.used == 0


def test_a_new_version_never_reads_the_old_ones_cache(live: Live) -> None:
    prompt = tiny.words(40, 3)
    answers = []
    task, apart = fresh("text"), fresh("text")
    for seed in (1, 2):
        assert live.upload(task, adapter_files(live.backbone, kind="generate", seed=seed)).status_code == 201
        answers.append(live.outputs(task, prompt, max_new_tokens=8))
        assert live.outputs(task, prompt, max_new_tokens=8) == answers[-1]
    live.upload(apart, adapter_files(live.backbone, kind="generate", seed=2))
    assert answers[1] == live.outputs(apart, prompt, max_new_tokens=8)
    assert answers[0] != answers[1]
    assert live.runtime.engine.cache.reused > 0


def test_encoders_say_what_they_cannot(served: Any, tmp_path: Path) -> None:
    with serving(served, tmp_path) as encoder:
        answer = encoder.client.post("/v1/completions", json={"model": "base", "prompt": "w1"})
        assert_error(answer, 400, "kind 'embed' and cannot generate")
        assert close(encoder.outputs("base", "w1"), encoder.outputs("base", "w1"))

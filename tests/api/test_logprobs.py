"""What clients get of tokens' probabilities, and how evaluation harnesses score prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lorax
import openai
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.api.live import Live, adapter_files, assert_error, fresh, serving

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

TEXTS = ["the cat sat", "on the mat 日本 🙂", "a dog too and the cat and the mat on the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_byte_base(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def live(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tiny.load(folder), tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def prompts(live: Live) -> list[list[int]]:
    return [live.backbone.tokenizer.encode_bare(text, 999).ids for text in TEXTS]


@pytest.fixture(scope="module")
def tasks(live: Live, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[list[int]], Any]]:
    """Tasks, and what computes their logarithms of probabilities of a prompt, (tokens, vocabulary)."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def bare(ids: list[int]) -> Any:
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)

    own = tiny.load(folder)
    made: dict[str, Callable[[list[int]], Any]] = {"base": bare}
    for method in ("lora", "prefix", "bottleneck"):
        files = adapter_files(live.backbone, method, kind="generate")
        task = fresh("scored")
        assert live.upload(task, files).status_code == 201
        live.wait_loaded()
        stored = tmp_path_factory.mktemp("adapter")
        for name, data in files.items():
            (stored / name).write_bytes(data)
        made[task] = _values(own, read_adapter(stored, own).bind(own))
    return made


def _values(backbone: Backbone, adapter: Any = BARE) -> Callable[[list[int]], Any]:
    @torch.inference_mode()
    def values(ids: list[int]) -> Any:
        row = ForwardInput(ids, [0] * len(ids), adapter, mask_positions=tuple(range(len(ids))))
        return torch.log_softmax(forward(backbone, [row])[0].float(), -1)

    return values


def complete(live: Live, **body: Any) -> Any:
    answer = live.client.post("/v1/completions", json={"temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(live: Live, **body: Any) -> list[dict[str, Any]]:
    """The choices of a stream, put together."""
    choices: dict[int, dict[str, Any]] = {}
    with live.client.stream("POST", "/v1/completions", json={"temperature": 0, "stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                known = choices.setdefault(choice["index"], {"index": choice["index"], "text": "", "logprobs": None})
                known["text"] += choice["text"]
                known["finish_reason"] = choice["finish_reason"]
                for name, values in (choice["logprobs"] or {}).items():
                    known["logprobs"] = known["logprobs"] or {}
                    known["logprobs"].setdefault(name, []).extend(values)
    return [choices[i] for i in sorted(choices)]


def test_an_evaluation_harness_scores_as_transformers_do(
    live: Live, tasks: dict[str, Any], prompts: list[list[int]]
) -> None:
    """As lm-eval's local-completions asks and reads: lists of tokens, `echo`, one new token that is dropped."""
    for task, values in tasks.items():
        for most in (1, 0):
            answer = complete(live, model=task, prompt=prompts, max_tokens=most, echo=True, logprobs=1, seed=1234)
            assert len(answer["choices"]) == len(prompts)
            for choice, ids in zip(answer["choices"], prompts, strict=True):
                want = values(ids)
                logprobs = choice["logprobs"]
                assert [len(logprobs[name]) for name in logprobs] == [len(ids) + most] * 4
                assert logprobs["token_logprobs"][0] is None
                assert logprobs["top_logprobs"][0] is None
                for i, token in enumerate(ids[1:]):
                    value, top = logprobs["token_logprobs"][i + 1], logprobs["top_logprobs"][i + 1]
                    assert abs(value - float(want[i, token])) < tiny.CLOSE
                    likeliest = max(top.values())
                    assert abs(likeliest - float(want[i].max())) < tiny.CLOSE
                    gap = float(want[i].max() - want[i, token])
                    if not 0 < gap < tiny.CLOSE:
                        assert (value == likeliest) == (gap == 0)  # greedy, to the last bit


def test_offsets_index_into_the_text(live: Live, tasks: dict[str, Any], prompts: list[list[int]]) -> None:
    for echo in (False, True):
        for prompt in (TEXTS, prompts):
            asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 12, "echo": echo, "logprobs": 2}
            for task in tasks:
                whole = complete(live, model=task, **asked)["choices"]
                assert streamed(live, model=task, **asked) == whole
                for i, choice in enumerate(whole):
                    text, logprobs = choice["text"], choice["logprobs"]
                    assert text.startswith(TEXTS[i]) or not echo
                    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
                        if not token.startswith("bytes:"):
                            assert text[offset : offset + len(token)] == token
                    assert all(len(top) in (2, 3) for top in logprobs["top_logprobs"] if top is not None)


def test_several_texts_of_several_prompts(live: Live, tasks: dict[str, Any], prompts: list[list[int]]) -> None:
    asked: dict[str, Any] = {"prompt": TEXTS[:2], "n": 2, "seed": 3, "temperature": 1.0, "max_tokens": 3, "echo": True}
    for task, values in tasks.items():
        whole = complete(live, model=task, logprobs=0, **asked)["choices"]
        assert streamed(live, model=task, logprobs=0, **asked) == whole
        for choice, ids in zip(whole, [p for p in prompts[:2] for _ in range(2)], strict=True):
            want = values(ids)
            scores = choice["logprobs"]["token_logprobs"][1 : len(ids)]
            assert scores == pytest.approx([float(want[i, t]) for i, t in enumerate(ids[1:])], abs=tiny.CLOSE)


def test_a_text_that_ends_at_once_has_an_entry_too(live: Live, prompts: list[list[int]]) -> None:
    """Or a harness, which counts from the end, would drop a token of the prompt."""
    (end,) = live.backbone.eos_token_ids
    asked: dict[str, Any] = {"model": "base", "prompt": prompts[0], "max_tokens": 1, "logit_bias": {str(end): 100}}
    (choice,) = complete(live, echo=True, logprobs=1, **asked)["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == TEXTS[0]
    assert len(choice["logprobs"]["tokens"]) == len(prompts[0]) + 1
    assert choice["logprobs"]["tokens"][-1] == "<end>"
    assert choice["logprobs"]["text_offset"][-1] == len(TEXTS[0])
    assert streamed(live, echo=True, logprobs=1, **asked) == [choice]
    (alone,) = complete(live, logprobs=1, **asked)["choices"]
    assert alone["logprobs"]["tokens"] == []


def test_bytes_are_the_tokens_own(live: Live, client: openai.OpenAI) -> None:
    """Half characters too, one by one as the model is made to write them."""
    task = live.add("chat", kind="generate")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert live.client.put(f"/v1/tasks/{task}", json={"chat_template": template}).status_code == 200
    ids = live.backbone.tokenizer.encode_bare("日", 9).ids
    assert len(ids) == 3
    asked: Any = {"model": task, "messages": [{"role": "user", "content": "the"}], "logprobs": True, "top_logprobs": 3}
    for token, byte in zip(ids, "日".encode(), strict=True):
        answer = client.chat.completions.create(max_tokens=2, temperature=0, logit_bias={str(token): 100}, **asked)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [one.bytes for one in logprobs.content] == [[byte]] * 2
        assert [one.token for one in logprobs.content] == [f"bytes:\\x{byte:02x}"] * 2
        assert all(len(one.top_logprobs) == 3 for one in logprobs.content)
    answer = client.chat.completions.create(max_tokens=20, temperature=0, **asked)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    data = b"".join(bytes(one.bytes or []) for one in logprobs.content or [])
    assert data.decode(errors="replace") == answer.choices[0].message.content


def test_prompt_logprobs_as_vllm_has_them(live: Live, tasks: dict[str, Any], prompts: list[list[int]]) -> None:
    want = tasks["base"](prompts[0])
    (choice,) = complete(live, model="base", prompt=prompts[0], max_tokens=1, prompt_logprobs=2)["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert choice["logprobs"] is None
    for i, by_token in enumerate(others):
        own = by_token[str(prompts[0][i + 1])]
        assert abs(own["logprob"] - float(want[i, prompts[0][i + 1]])) < tiny.CLOSE
        order = want[i].sort(descending=True).values
        assert abs(float(order[own["rank"] - 1]) - own["logprob"]) < tiny.CLOSE
        assert {1, 2} <= {one["rank"] for one in by_token.values()}
        assert len(by_token) in (2, 3)
    answer = live.client.post(
        "/v1/completions", json={"model": "base", "prompt": "the", "prompt_logprobs": 1, "stream": True}
    )
    assert_error(answer, 400, "prompt_logprobs", "stream")


def test_our_own_route_scores(live: Live, tasks: dict[str, Any], prompts: list[list[int]]) -> None:
    for task, values in tasks.items():
        outputs = live.outputs(task, TEXTS, prompt_logprobs=1, max_new_tokens=0)
        for output, ids in zip(outputs, prompts, strict=True):
            assert output["tokens"] == []
            assert [one["token"] for one in output["prompt_logprobs"]] == ids
            scores = [one["logprob"] for one in output["prompt_logprobs"]]
            want = values(ids)
            assert scores[0] is None
            assert scores[1:] == pytest.approx([float(want[i, t]) for i, t in enumerate(ids[1:])], abs=tiny.CLOSE)
    assert_error(live.ask("base", TEXTS, max_new_tokens=0), 400, "max_new_tokens", "prompt_logprobs")


def test_details_of_the_prompt_as_tgi_has_them(live: Live, tasks: dict[str, Any], prompts: list[list[int]]) -> None:
    hats = lorax.Client(f"http://{live.host}:{live.port}")
    details = hats.generate(TEXTS[0], decoder_input_details=True, max_new_tokens=1).details
    assert details is not None
    assert [one.id for one in details.prefill] == prompts[0]
    want = tasks["base"](prompts[0])
    scores = [one.logprob for one in details.prefill]
    assert scores[0] is None
    assert scores[1:] == pytest.approx([float(want[i, t]) for i, t in enumerate(prompts[0][1:])], abs=tiny.CLOSE)
    body = {"inputs": "the", "parameters": {"decoder_input_details": True}}
    answer = live.client.post("/generate_stream", json=body)
    assert answer.status_code == 422
    assert "decoder_input_details" in answer.json()["error"]


def test_what_cannot_be_scored_is_refused(live: Live) -> None:
    for body in ({"logprobs": 21, "echo": True}, {"prompt_logprobs": -1}, {"prompt_logprobs": True}):
        answer = live.client.post("/v1/completions", json={"model": "base", "prompt": "the", **body})
        assert_error(answer, 400, "logprobs")

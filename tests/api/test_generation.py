"""Texts over HTTP: streams of many tasks, by our own route, OpenAI's client and LoRAX's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import lorax
import lorax.errors
import openai
import pytest
from manyhats.engine.generator import Generator

from tests import tiny
from tests.api.live import Live, adapter_files, assert_error, close, fresh, serving, wait_until

# LoRAX's client speaks to pydantic as one did years ago.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

PROMPTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8"]
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def live(base_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("store")) as running:
        yield running


def add(live: Live, method: str = "lora", **settings: Any) -> str:
    """A task that generates."""
    task = live.add("text", method, kind="generate")
    if settings:
        assert live.client.put(f"/v1/tasks/{task}", json=settings).status_code == 200
    return task


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; `[DONE]` as it is."""
    data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


@pytest.fixture(scope="module")
def tasks(live: Live) -> list[str]:
    return ["base", add(live), add(live, "prefix"), add(live, "bottleneck"), add(live, "mask")]


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
    for told in output["logprobs"]:
        assert told["logprob"] <= 0
        assert len(told["top"]) == 2
        assert told["top"][0]["logprob"] >= told["top"][1]["logprob"]


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


@pytest.fixture(scope="module")
def bytes_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone reads bytes, as answers of a form need it."""
    base = tiny.write_byte_base(tmp_path_factory.mktemp("bytes"))
    with serving(tiny.load(base), tmp_path_factory.mktemp("store")) as running:
        yield running


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 22, 333]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_answers_of_a_form(bytes_live: Live) -> None:
    """A random model writes nothing sensible, but always what was asked for; also for several at once."""
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for parameters in ({}, {"temperature": 1.5, "seed": 3, "n": 4}):
        (output,) = bytes_live.outputs("base", "a person", response_format=form, max_new_tokens=150, **parameters)
        for choice in output.get("choices", [output]):
            assert choice["finish_reason"] == "stop"
            person = json.loads(choice["text"])
            assert person.keys() == {"name", "age"}
            assert person["age"] in (1, 22, 333)
    (output,) = bytes_live.outputs("base", "x", regex="(ab|cd)+ [0-9]{3}", max_new_tokens=60, logit_bias={"5": -50})
    assert re.fullmatch("(ab|cd)+ [0-9]{3}", output["text"]) or output["finish_reason"] == "length"
    (output,) = bytes_live.outputs("base", "x", response_format={"type": "json_object"}, max_new_tokens=5)
    assert output["text"].startswith("{")
    with openai.OpenAI(base_url=f"http://{bytes_live.host}:{bytes_live.port}/v1", api_key="none") as client:
        answer = client.completions.create(
            model="base", prompt="a person", max_tokens=150, extra_body={"response_format": form}
        )
        assert json.loads(answer.choices[0].text).keys() == {"name", "age"}
    (bare,) = bytes_live.outputs("base", "x", response_format={"type": "text"}, max_new_tokens=5)
    assert bare == bytes_live.outputs("base", "x", max_new_tokens=5)[0]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"regex": "w("}, "not valid"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}, "not valid"),
        ({"response_format": {"type": "xml"}}, "text, json_object, json_schema"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "schema is an object"),
    ],
)
def test_forms_that_are_none(bytes_live: Live, parameters: dict[str, Any], told: str) -> None:
    assert_error(bytes_live.ask("base", "x", **parameters), 400, told)


def test_a_tokenizer_that_cannot_be_held_to_a_form(live: Live) -> None:
    assert_error(live.ask("base", "w1", regex="w1"), 400, "tokenizer of bytes or characters")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 3}, "temperature 0"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "16 stop strings"),
        ({"logit_bias": {"x": 1}}, "token numbers"),
        ({"logit_bias": {"999999": 1}}, "999999"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"pooling": "mean", "max_new_tokens": 3}, "no parameter 'max_new_tokens'"),
    ],
)
def test_wrong_parameters_are_named(live: Live, parameters: dict[str, Any], told: str) -> None:
    assert_error(live.ask("base", PROMPTS[0], **parameters), 400, told)


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
    step = Generator.advance

    def slowly(generator: Generator, turn: Any, *others: Any) -> None:
        passes.append(len(turn))
        if len(passes) > 3:
            gone.wait(20)
        step(generator, turn, *others)

    import threading

    gone = threading.Event()
    monkeypatch.setattr(Generator, "advance", slowly)
    generator = live.runtime.engine.generator
    assert generator is not None
    with live.new_client() as client, client.stream("POST", f"/v1/tasks/{tasks[1]}/predict", json=body) as response:
        next(response.iter_lines())
    wait_until(lambda: all(s.writing.future.done() for s in generator._running), "the server knows of it")
    before = len(passes)
    gone.set()
    live.wait_idle()
    wait_until(lambda: generator.idle, "the place is free")
    assert len(passes) <= before + 1
    assert generator.pool.used == 0


def test_one_client_cannot_take_the_whole_cache(base_folder: Any, tmp_path: Path) -> None:
    """A task with many long texts waits for its turn; others are answered among them."""
    backbone = tiny.load(base_folder("llama"))
    rows = 8 * 16
    kv_heads, dim = backbone.kv_shape
    with serving(
        backbone, tmp_path, cache_memory=rows * 2 * backbone.layers * kv_heads * dim * 4, step_tokens=64, max_texts=8
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
        generator = live.runtime.engine.generator
        assert generator is not None
        assert generator.pool.used == 0


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
    assert live.runtime.engine.generator is not None
    assert live.runtime.engine.generator.reused > 0


# ---- OpenAI's client


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openai_models(live: Live, tasks: list[str], client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == live.backbone.name
    assert set(tasks[1:]) <= set(names)
    assert client.models.retrieve(tasks[1]).id == tasks[1]
    with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"):
        client.models.retrieve("nobody")


def test_openai_completions(live: Live, tasks: list[str], client: openai.OpenAI) -> None:
    for task in tasks:
        expected = [output["text"] for output in live.outputs(task, PROMPTS, max_new_tokens=6)]
        answer = client.completions.create(model=task, prompt=PROMPTS, max_tokens=6, temperature=0, logprobs=1)
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage is not None
        assert answer.usage.completion_tokens == sum(
            len(choice.logprobs.tokens or []) for choice in answer.choices if choice.logprobs
        )
        texts = [""] * len(PROMPTS)
        usage = None
        for chunk in client.completions.create(
            model=task,
            prompt=PROMPTS,
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == expected
        assert usage == answer.usage
    tokens = list(tiny.row(live.backbone, tiny.BARE, PROMPTS[0]).ids)
    by_tokens = client.completions.create(model="base", prompt=tokens, max_tokens=6, temperature=0)
    assert by_tokens.choices[0].text == live.outputs("base", PROMPTS[0], max_new_tokens=6)[0]["text"]
    echoed = client.completions.create(model="base", prompt=PROMPTS[0], max_tokens=2, temperature=0, echo=True)
    assert echoed.choices[0].text.startswith(PROMPTS[0])
    asked: Any = {"prompt": PROMPTS[:2], "n": 2, "max_tokens": 3, "temperature": 1.0, "seed": 4, "echo": True}
    whole = client.completions.create(model="base", **asked)
    pieces = ["", "", "", ""]
    for chunk in client.completions.create(model="base", stream=True, **asked):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == [choice.text for choice in whole.choices]
    assert [text.startswith(PROMPTS[i // 2]) for i, text in enumerate(pieces)] == [True] * 4


def test_openai_chat(live: Live, client: openai.OpenAI) -> None:
    plain = add(live)
    messages: Any = [{"role": "user", "content": "w1 w2"}]
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model=plain, messages=messages)
    task = add(live, chat_template=CHAT, system_prompt="w7 w8")
    prompt = "system w7 w8 user w1 w2 "
    ids = live.backbone.tokenizer.encode_bare(prompt, 99).ids
    bare = client.completions.create(model=task, prompt=ids, max_tokens=6, temperature=0).choices[0].text
    answer = client.chat.completions.create(
        model=task, messages=messages, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.message.content == bare
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [len(one.top_logprobs) for one in choice.logprobs.content] == [2] * 6
    own = client.chat.completions.create(
        model=task,
        messages=[
            {"role": "system", "content": "w7 w8"},
            {"role": "user", "content": [{"type": "text", "text": "w1 w2"}]},
        ],
        max_completion_tokens=6,
        temperature=0,
    )
    assert own.choices[0].message.content == bare
    stream = client.chat.completions.create(model=task, messages=messages, max_tokens=6, temperature=0, stream=True)
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == bare
    assert chunks[0].delta.role == "assistant"
    assert chunks[-1].finish_reason == "length"
    many = client.chat.completions.create(model=task, messages=messages, n=2, seed=1, max_tokens=5, temperature=1.5)
    assert [choice.index for choice in many.choices] == [0, 1]
    live.wait_idle()


def test_openai_errors(live: Live, tasks: list[str], client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="nobody", prompt="w1")
    assert caught.value.body == {
        "message": "The model `nobody` does not exist.", "type": "NotFoundError", "param": "model", "code": 404,
    }  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="base", prompt="w1", temperature=-3)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "w1"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt="w1", stream=True)
    answer = live.client.post("/v1/completions", json={"model": "base", "prompt": "w1", "made_up": 1, "max_tokens": 2})
    assert answer.status_code == 200


# ---- LoRAX's client


@pytest.fixture(scope="module")
def hats(live: Live) -> lorax.Client:
    return lorax.Client(f"http://{live.host}:{live.port}")


def test_lorax_generate(live: Live, tasks: list[str], hats: lorax.Client) -> None:
    for task in tasks:
        (expected,) = live.outputs(task, PROMPTS[0], max_new_tokens=6)
        name = None if task == "base" else task
        answer = hats.generate(PROMPTS[0], adapter_id=name, max_new_tokens=6, return_k_alternatives=2)
        assert answer.generated_text == expected["text"]
        assert answer.details is not None
        assert [token.id for token in answer.details.tokens] == expected["tokens"]
        assert all(len(token.alternative_tokens or []) == 2 for token in answer.details.tokens)
        pieces = list(hats.generate_stream(PROMPTS[0], adapter_id=name, max_new_tokens=6))
        assert "".join(piece.token.text for piece in pieces if not piece.token.special) == expected["text"]
        assert [piece.token.id for piece in pieces if not piece.token.special] == expected["tokens"]
        assert pieces[-1].generated_text == expected["text"]
        assert pieces[-1].details is not None
        assert pieces[-1].details.generated_tokens == len(expected["tokens"])
    direct = live.client.post("/generate", json={"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 6}}).json()
    assert direct["generated_text"] == live.outputs("base", PROMPTS[0], max_new_tokens=6)[0]["text"]


def test_lorax_merged_adapters(live: Live, tasks: list[str], hats: lorax.Client) -> None:
    one, two = tasks[1], add(live)
    alone = hats.generate(PROMPTS[0], adapter_id=one, max_new_tokens=6).generated_text
    merged = lorax.MergedAdapters(ids=[one, two], weights=[1.0, 0.0], merge_strategy="linear", density=1.0)
    assert hats.generate(PROMPTS[0], merged_adapters=merged, max_new_tokens=6).generated_text == alone


def test_lorax_errors(live: Live, hats: lorax.Client) -> None:
    with pytest.raises(lorax.errors.GenerationError, match="nobody"):
        hats.generate("w1", adapter_id="nobody")
    with pytest.raises(lorax.errors.ValidationError, match="typical_p"):
        hats.generate("w1", typical_p=0.5)
    with pytest.raises(lorax.errors.ValidationError, match="tokens"):
        hats.generate(tiny.words(90, 1))
    answer = live.client.post("/generate", json={"inputs": 3})
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"


def test_encoders_say_what_they_cannot(served: Any, tmp_path: Path) -> None:
    with serving(served, tmp_path) as encoder:
        answer = encoder.client.post("/v1/completions", json={"model": "base", "prompt": "w1"})
        assert_error(answer, 400, "kind 'embed' and cannot generate")
        assert close(encoder.outputs("base", "w1"), encoder.outputs("base", "w1"))

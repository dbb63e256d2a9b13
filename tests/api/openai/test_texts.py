"""Texts by OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import tiny
from tests.api.generating import CHAT, PROMPTS, add
from tests.api.live import Live

BACKBONE = "llama"


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openai_models(live: Live, tasks: list[str], client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == live.backbone.name
    assert set(tasks[1:]) <= set(names)
    for one in (names[0], tasks[1]):  # the first is a folder
        assert client.models.retrieve(one).id == one
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
    task = add(live, chat_template=CHAT, system_prompt="w7 w8", defaults={"ignore_eos": True})
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


def test_counts_names_and_ids(live: Live, tasks: list[str], client: openai.OpenAI) -> None:
    """Tokens found in the cache are counted, and each answer names what made it and the request that it is for."""
    prompt, fingerprints = tiny.words(40, 77), set()
    for task, expected in ((tasks[1], 0), (tasks[1], 32), (tasks[0], 0)):
        answer = client.completions.create(model=task, prompt=prompt, max_tokens=2, n=2, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == expected
        assert answer._request_id
        fingerprints.add(answer.system_fingerprint)
    for chunk in client.completions.create(model="base", prompt=prompt, max_tokens=2, stream=True):
        fingerprints.add(chunk.system_fingerprint)
    task = add(live, chat_template=CHAT)
    messages: Any = [{"role": "user", "content": "w1"}]
    chat = client.chat.completions.create(
        model=task, messages=messages, max_tokens=2, extra_headers={"X-Request-Id": "mine"}
    )
    assert chat._request_id == "mine"
    fingerprints.add(chat.system_fingerprint)
    assert len(fingerprints) == 1
    assert str(fingerprints.pop()).startswith("fp_")
    with pytest.raises(openai.NotFoundError) as raised:
        client.completions.create(model="nobody", prompt="w1", extra_headers={"X-Request-Id": "theirs"})
    assert raised.value.request_id == "theirs"

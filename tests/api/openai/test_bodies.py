"""The bodies of OpenAI's routes: nulls, edges, wrong types, and fields of other servers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from manyhats.api.known_fields import FOLLOWED
from manyhats.api.openai.bodies import Body, ChatBody, CompletionBody
from manyhats.serving.merged import FIELD

from tests import tiny
from tests.api.generating import CHAT, PROMPTS, add, events
from tests.api.live import Live, assert_error

COMPLETION = {"model": "base", "prompt": PROMPTS[0], "max_tokens": 3, "temperature": 0}
MESSAGES = [{"role": "user", "content": "w1 w2"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
STRANGE: list[Any] = [True, -1, 1.5, 10**30, "", "9" * 5000, [1], [[True]], ["x"], {"a": [{}]}]


BACKBONE = "llama"


@pytest.fixture(scope="module")
def task(live: Live) -> str:
    return add(live, chat_template=CHAT)


def complete(live: Live, **fields: Any) -> httpx.Response:
    return live.client.post("/v1/completions", json=COMPLETION | fields)


def chat(live: Live, task: str, **fields: Any) -> httpx.Response:
    body = {"model": task, "messages": MESSAGES, "max_tokens": 3, "temperature": 0}
    return live.client.post("/v1/chat/completions", json=body | fields)


def texts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [c["text"] if "text" in c else c["message"]["content"] for c in answer.json()["choices"]]


def test_every_optional_field_may_be_null(live: Live, task: str) -> None:
    needed = {"model", "prompt", "messages", "max_tokens", "temperature"}
    routes: list[tuple[type[Body], Callable[..., httpx.Response]]] = [
        (CompletionBody, partial(complete, live)),
        (ChatBody, partial(chat, live, task)),
    ]
    for body, asked in routes:
        plain = texts(asked())
        nulls = dict.fromkeys((set(body.model_fields) | FOLLOWED.keys()) - needed)
        assert texts(asked(**nulls)) == plain
        for name in nulls:
            assert texts(asked(**{name: None})) == plain
    longer = complete(live, max_tokens=None, ignore_eos=True)
    assert longer.json()["usage"]["completion_tokens"] == 16
    assert complete(live, temperature=None).status_code == 200
    assert_error(complete(live, model=None), 400, "model")
    assert_error(complete(live, prompt=None), 400, "prompt")


def test_no_type_fails_the_server(live: Live, task: str) -> None:
    for name in sorted(set(CompletionBody.model_fields) | FOLLOWED.keys() | {"stream_options"}):
        for value in STRANGE:
            answer = complete(live, **{name: value})
            assert answer.status_code in (200, 400, 404, 413), (name, value, answer.text)
    for name in sorted(set(ChatBody.model_fields) - set(CompletionBody.model_fields)):
        for value in STRANGE:
            answer = chat(live, task, **{name: value})
            assert answer.status_code in (200, 400), (name, value, answer.text)


def test_edges_that_are_allowed(live: Live, task: str) -> None:
    plain = texts(complete(live))
    for fields in (
        {"stop": ""}, {"stop": [""]}, {"stop": []}, {"seed": -1}, {"seed": 1.0}, {"seed": -(1 << 63)},
        {"max_tokens": 3.0},
        {"top_p": 0, "temperature": 1}, {"logprobs": False}, {"suffix": ""}, {"best_of": 1}, {"tools": []},
        {"logit_bias": {}}, {"made_up": {"a": 1}}, {"user": 5}, {"metadata": {"a": "b"}}, {"top_k": -1},
        {"add_special_tokens": True},
    ):  # fmt: skip
        assert texts(complete(live, **fields)) == plain, fields
    assert texts(complete(live, n=2)) == plain * 2
    assert texts(complete(live, n=2, best_of=2)) == plain * 2
    plain = texts(chat(live, task))
    for fields in (
        {"tools": [TOOL], "tool_choice": "none"}, {"functions": [{"name": "f"}], "function_call": "none"},
        {"tool_choice": "auto"}, {"tool_choice": "none"}, {"logprobs": False}, {"top_logprobs": 0},
        {"max_completion_tokens": 3}, {"modalities": ["text"]}, {"parallel_tool_calls": True}, {"store": False},
        {"response_format": {"type": "text"}}, {"reasoning_effort": None}, {"add_special_tokens": False},
    ):  # fmt: skip
        assert texts(chat(live, task, **fields)) == plain, fields


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"temperature": "0.5"}, "temperature", "valid number"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens: .*-1"),
        ({"max_tokens": "3"}, "max_tokens", "valid integer"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"echo": 1}, "echo", "boolean"),
        ({"logprobs": True}, "logprobs", "how many"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ""}, "prompt.0", "empty"),
        ({"prompt": [[]]}, "prompt.0", "empty"),
        ({"prompt": [[True]]}, "prompt", "a text, a list of texts"),
        ({"prompt": [True]}, "prompt", "a text, a list of texts"),
        ({"prompt": [1, "a"]}, "prompt", "a text, a list of texts"),
        ({"prompt": {"a": 1}}, "prompt", "a text, a list of texts"),
        ({"prompt": [1, 999999], "echo": True}, "prompt.0", "the token 999999"),
        ({"prompt": [[1, -1]], "echo": True}, "prompt.0", "the token -1"),
        ({"prompt": [1 << 70], "echo": True}, "prompt.0", "the token"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "token numbers"),
        ({"logit_bias": [1]}, "logit_bias", "dictionary"),
        ({"structured_outputs": [1]}, "structured_outputs", "object"),
        ({"structured_outputs": {"made_up": 1}}, "structured_outputs.made_up", "not supported"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag", "not supported"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "true or false"),
        ({"structured_outputs": {"choice": ["a"], "regex": "b"}}, "parameters", "one form"),
        ({"guided_json": "{"}, "guided_json", "valid JSON"),
        ({"guided_choice": "a"}, "guided_choice", "valid list"),
        ({"response_format": "json"}, "response_format", "dictionary"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format", "structural_tag"),
        ({"stop_token_ids": [999999]}, "stop_token_ids", "999999"),
        ({"stream_options": {"include_usage": "x"}}, None, "boolean"),
        ({"stream_options": {"continuous_usage_stats": True}}, "continuous_usage_stats", "not supported"),
        ({"best_of": 3}, "best_of", "not supported"),
        ({"best_of": 3, "n": 2}, "best_of", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"add_special_tokens": False}, "add_special_tokens", "not supported"),
        ({"use_beam_search": True}, "use_beam_search", "not supported"),
        ({"length_penalty": 2}, "length_penalty", "not supported.* 1"),
        ({"max_new_tokens": 5}, "max_new_tokens", "use 'max_tokens'"),
        ({"guided_regex": "a", "regex": "b"}, "regex", "two things"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_completion(live: Live, fields: dict[str, Any], param: str | None, message: str) -> None:
    error = assert_error(complete(live, **fields), 400, message)
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": [TOOL]}, "tools", "tools' is not supported"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools", "not supported"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "required.*not supported"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "two things"),
        ({"max_tokens": None, "max_completion_tokens": -1}, "max_completion_tokens", "max_completion_tokens: .*-1"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"logprobs": 1}, "logprobs", "boolean"),
        ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
        ({"adapter_id": "x"}, "adapter_id", "'model' names the task"),
        ({"messages": [{"role": "user", "content": tiny.words(90, 1)}]}, "messages", "tokens"),
    ],
)
def test_what_is_wrong_with_a_chat(live: Live, task: str, fields: dict[str, Any], param: str, message: str) -> None:
    assert assert_error(chat(live, task, **fields), 400, message)["param"] == param


def test_fields_of_other_servers_are_followed(live: Live, task: str) -> None:
    """vLLM's, SGLang's and LoRAX's names, each as our own parameter."""
    own = {"max_new_tokens": 8, "temperature": 0}
    whole = live.outputs("base", PROMPTS[0], **own, ignore_eos=True)[0]
    stop, text = whole["tokens"][3], whole["text"].split()
    on, stopped = {"ignore_eos": True}, {"ignore_eos": True, "stop": text[3]}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        *((same, same) for same in (
            on | {"stop_token_ids": [stop]}, on | {"min_tokens": 6, "stop": text[0]}, on | {"bad_words": text[:2]},
            {"allowed_token_ids": [stop, 9]}, {"truncate_prompt_tokens": 3}, on | {"repetition_penalty": 1.8},
            {"truncate_prompt_tokens": 3, "truncation_side": "right"},
            {"skip_special_tokens": False, "allowed_token_ids": [1]},
        )),
        ({"ignore_eos_token": True}, on),
        ({"min_new_tokens": 5}, {"min_tokens": 5}),
        (stopped | {"include_stop_str_in_output": True}, stopped | {"include_stop": True}),
        (stopped | {"no_stop_trim": True}, stopped | {"include_stop": True}),
    ]  # fmt: skip
    for fields, same in cases:
        expected = live.outputs("base", PROMPTS[0], **own, **same)[0]["text"]
        assert texts(complete(live, max_tokens=8, **fields)) == [expected], fields
        streamed = live.client.post("/v1/completions", json=COMPLETION | {"max_tokens": 8, "stream": True} | fields)
        pieces = [one["choices"][0]["text"] for one in events(streamed) if one != "[DONE]" and one["choices"]]
        assert "".join(pieces) == expected


def test_a_tasks_own_length_comes_before_the_routes(live: Live) -> None:
    short = add(live, chat_template=CHAT, defaults={"max_new_tokens": 2, "ignore_eos": True})
    answer = live.client.post("/v1/completions", json={"model": short, "prompt": "w1"})
    assert answer.json()["usage"]["completion_tokens"] == 2
    answer = live.client.post("/v1/chat/completions", json={"model": short, "messages": MESSAGES})
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_what_is_followed_is_a_parameter() -> None:
    assert FIELD in FOLLOWED

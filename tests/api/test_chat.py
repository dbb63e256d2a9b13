"""Chats over HTTP: what of a request and of its messages reaches the template, and templates that take too much."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from manyhats.serving import templates

from tests.api.live import Live, assert_error

WORDS = "{% for m in messages %}{{ m.content }} {% endfor %}"
HI = [{"role": "user", "content": "w1 w2"}]


BACKBONE = "llama"


def task(live: Live, template: str) -> str:
    name = live.add("chat", kind="generate")
    put(live, name, template)
    return name


def put(live: Live, name: str, template: str) -> None:
    answer = live.client.put(f"/v1/tasks/{name}", json={"chat_template": template})
    assert answer.status_code == 200, answer.text


def ask(live: Live, model: str, **body: Any) -> Any:
    body = {"model": model, "messages": HI, "max_tokens": 2, "temperature": 0, **body}
    return live.client.post("/v1/chat/completions", json=body)


def read(live: Live, model: str, **body: Any) -> int:
    """How many tokens the prompt has: each word is one."""
    answer = ask(live, model, **body)
    assert answer.status_code == 200, answer.text
    count: int = answer.json()["usage"]["prompt_tokens"]
    return count


def test_what_a_request_sets_reaches_the_template(live: Live) -> None:
    name = task(
        live,
        WORDS
        + "{% if add_generation_prompt %}w3 {% endif %}{% if thinking %}w4 w5 {% endif %}"
        + "{% for d in documents or [] %}{{ d.text }} {% endfor %}",
    )
    assert read(live, name) == 3
    assert read(live, name, add_generation_prompt=None, chat_template_kwargs=None, documents=None) == 3
    assert read(live, name, add_generation_prompt=False) == 2
    assert read(live, name, chat_template_kwargs={"thinking": True}) == 5
    assert read(live, name, documents=[{"text": "w6 w7 w8"}]) == 6
    assert read(live, name, add_special_tokens=True) == 5  # one before and one behind
    assert read(live, name, stream=False, continue_final_message=False) == 3


def test_an_answer_may_be_begun(live: Live) -> None:
    name = task(
        live, "{% for m in messages %}{{ m.content }} w0 {% endfor %}{% if add_generation_prompt %}w3{% endif %}"
    )
    begun = [*HI, {"role": "assistant", "content": "w5 w6"}]
    assert read(live, name, messages=begun) == 7
    assert read(live, name, messages=begun, continue_final_message=True) == 5
    assert read(live, name, messages=begun, continue_final_message=True, add_generation_prompt=False) == 5
    tokens = live.backbone.tokenizer.encode_bare("w1 w2 w0 w5 w6", 99).ids
    bare = {"model": name, "prompt": tokens, "max_tokens": 2, "temperature": 0}
    want = live.client.post("/v1/completions", json=bare).json()["choices"][0]["text"]
    got = ask(live, name, messages=begun, continue_final_message=True).json()["choices"][0]["message"]["content"]
    assert got == want
    both = ask(live, name, messages=begun, continue_final_message=True, add_generation_prompt=True)
    assert_error(both, 400, "continue_final_message", "add_generation_prompt")


@pytest.mark.parametrize(
    ("body", "patterns"),
    [
        ({"chat_template": "{{ 1 }}"}, ["chat_template", "not supported", "set it for the task"]),
        ({"chat_template_kwargs": {"messages": []}}, ["chat_template_kwargs", "messages"]),
        ({"chat_template_kwargs": [1]}, ["chat_template_kwargs"]),
        ({"documents": ["x"]}, ["documents"]),
        ({"continue_final_message": "yes please"}, ["continue_final_message"]),
        ({"messages": []}, ["no messages"]),
    ],
)
def test_what_is_refused(live: Live, body: dict[str, Any], patterns: list[str]) -> None:
    assert_error(ask(live, task(live, WORDS), **body), 400, *patterns)


def test_a_history_with_calls_reaches_the_template(live: Live) -> None:
    name = task(
        live,
        "{% for m in messages %}{{ m.content }} {% for c in m.tool_calls or [] %}"
        "{{ c.id }} {{ c.function.name }} {{ c.function.arguments.word }} {% endfor %}"
        "{{ m.tool_call_id }} {{ m.name }} {{ m.reasoning_content }} {% endfor %}",
    )
    call = {"id": "w3", "type": "function", "function": {"name": "w4", "arguments": '{"word": "w5"}'}}
    history: list[Any] = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "w6 w7"},
        {"role": "tool", "tool_call_id": "w3", "name": "w8", "content": [{"type": "text", "text": "w9"}]},
    ]
    assert read(live, name, messages=history) == 10


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("{{ 1/0 }}", "division by zero"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "too long"),
        pytest.param(
            "{{ 'a' * 2**32 }}",
            "too much memory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory is Linux's"),
        ),
        ("{{ 'w1 ' * 2000000 }}", "more than 4000000 characters"),
    ],
)
def test_a_template_that_takes_too_much_is_the_callers_fault(
    live: Live, template: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its requests leave nothing behind: neither a thread that computes, nor a process."""
    monkeypatch.setattr(templates.OTHERS, "computing", 0.3)
    name = task(live, template)
    assert_error(ask(live, name), 400, pattern)
    assert not templates.OTHERS._busy
    put(live, name, WORDS)
    assert read(live, name) == 2
    live.wait_idle()


def test_a_filled_template_is_bounded(live: Live) -> None:
    """Before it is filled."""
    name = live.add("chat", kind="generate")
    assert live.client.put(f"/v1/tasks/{name}", json={"template": "{text} " * 1400}).status_code == 200
    assert_error(live.ask(name, "w1 " * 100_000), 400, "characters")

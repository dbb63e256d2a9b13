"""Prompts of conversations are those of transformers' `apply_chat_template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Tokenizer
from manyhats.errors import InvalidRequest
from manyhats.serving.chat import ChatOptions, chat_prompt

from tests import tiny
from tests.serving import chat_templates

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": [1, "é"]}'}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"role": "user", "content": " hi <b> é 🙂"}],
    "system": [{"role": "system", "content": "be nice "}, {"role": "user", "content": "hi", "name": "bob"}],
    "long": [{"role": role, "content": f"{i} "} for i in range(3) for role in ("user", "assistant")],
    "reasoning": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "so", "reasoning_content": "\nbecause\n"},
    ],
    "calls": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "22"},
    ],
    "calls with words": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "22"},
        {"role": "tool", "tool_call_id": "c2", "content": "23"},
    ],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = Path(tmp_path_factory.mktemp("words"))
    tiny.tokenizer("roberta").save_pretrained(folder)
    return Tokenizer(str(folder))


def prompt(
    tokenizer: Tokenizer, messages: Any, template: str | None = PLAIN, system: Any = None, **options: Any
) -> str:
    return chat_prompt(tokenizer, messages, template=template, system_prompt=system, options=ChatOptions(**options))


def wanted(tokenizer: Tokenizer, messages: list[dict[str, Any]], template: str, **options: Any) -> str | None:
    """As transformers does it; None where it refuses. Arguments of tools are given as what they are."""
    for message in messages:
        if message.get("tool_calls"):
            parsed = {**CALL, "function": {"name": "find", "arguments": {"a": [1, "é"]}}}
            messages = [
                m if m is not message else {**m, "tool_calls": [parsed] * len(message["tool_calls"])} for m in messages
            ]
    try:
        text: str = tokenizer.loaded.apply_chat_template(messages, tokenize=False, chat_template=template, **options)
    except Exception:
        return None
    return text


@pytest.mark.parametrize("template", chat_templates.ALL)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_prompts_are_those_of_transformers(tokenizer: Tokenizer, template: str, conversation: str) -> None:
    source, messages = chat_templates.ALL[template], CONVERSATIONS[conversation]
    documents = [{"title": "one", "text": "é"}]
    for variables in ({}, {"enable_thinking": False, "style": "grand", "date_string": "today", "bos_token": "^"}):
        for generation in (True, False):
            for given in (None, documents):
                want = wanted(
                    tokenizer, messages, source, add_generation_prompt=generation, documents=given, **variables
                )
                options = {"add_generation_prompt": generation, "variables": variables, "documents": given}
                if want is None:
                    with pytest.raises(InvalidRequest, match="refuses the messages"):
                        prompt(tokenizer, messages, source, **options)
                else:
                    assert prompt(tokenizer, messages, source, **options) == want


@pytest.mark.parametrize("template", [*chat_templates.ALL.values(), PLAIN, "{{ messages[-1].content }}"])
@pytest.mark.parametrize("content", ["one two", " one\n", "x"])
def test_the_last_message_can_be_continued(tokenizer: Tokenizer, template: str, content: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    want = wanted(tokenizer, messages, template, continue_final_message=True)
    if want is None:
        with pytest.raises(InvalidRequest, match="continue_final_message"):
            prompt(tokenizer, messages, template, continue_final_message=True)
        return
    assert prompt(tokenizer, messages, template, continue_final_message=True) == want
    assert want.rstrip().endswith(content.strip())
    assert prompt(tokenizer, messages, template, continue_final_message=True, add_generation_prompt=False) == want


def test_what_contradicts_itself_is_refused(tokenizer: Tokenizer) -> None:
    messages = CONVERSATIONS["plain"]
    with pytest.raises(InvalidRequest, match="add_generation_prompt"):
        prompt(tokenizer, messages, continue_final_message=True, add_generation_prompt=True)
    for name in ("messages", "tools", "chat_template", "tokenize", "add_generation_prompt"):
        with pytest.raises(InvalidRequest, match=f"'{name}'"):
            prompt(tokenizer, messages, variables={name: True})
    with pytest.raises(InvalidRequest, match="no content"):
        prompt(tokenizer, [{"role": "assistant", "tool_calls": [CALL]}], continue_final_message=True)
    with pytest.raises(InvalidRequest, match="not in the prompt"):
        prompt(tokenizer, messages, "{{ messages[0].content | upper }}", continue_final_message=True)
    with pytest.raises(InvalidRequest, match="no chat template"):
        prompt(tokenizer, messages, None)


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"content": "x"}, "no role"),
        ({"role": "user", "content": None}, "no content"),
        ({"role": "user"}, "no content"),
        ({"role": "user", "content": 3}, "no content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "no text"),
        ({"role": "assistant", "tool_calls": "x"}, "no list"),
        ({"role": "assistant", "tool_calls": [3]}, "name of a function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "name of a function"),
    ],
)
def test_messages_that_are_none(tokenizer: Tokenizer, message: Any, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        prompt(tokenizer, [message])


def test_every_field_of_a_message_reaches_the_template(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "tool", "name": "n", "tool_call_id": "t", "own": {"x": [1]}, "none": None, "content": parts}]
    assert prompt(tokenizer, messages, "{{ messages | tojson }}") == (
        '[{"role": "tool", "name": "n", "tool_call_id": "t", "own": {"x": [1]}, "content": "ab"}]'
    )
    for arguments, want in (('{"a": 1}', '{"a": 1}'), ("[1]", '"[1]"'), ("no {", '"no {"'), (None, "{}"), ("", "{}")):
        call = {"function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "assistant", "tool_calls": [call]}]
        template = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
        assert prompt(tokenizer, messages, template) == want


def test_the_tasks_system_prompt_stands_first(tokenizer: Tokenizer) -> None:
    user = {"role": "user", "content": "hi"}
    assert prompt(tokenizer, [user], system="be nice") == "<system>be nice<user>hi<bot>"
    own = {"role": "system", "content": "own"}
    assert prompt(tokenizer, [own, user], system="be nice") == "<system>own<user>hi<bot>"

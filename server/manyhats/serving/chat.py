"""From the messages of a conversation to one prompt, by the tokenizer's or the task's own template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyhats.backbone import Tokenizer
from manyhats.errors import InvalidRequest
from manyhats.serving.templates import OTHERS, OWN

Message = Mapping[str, Any]

MAX_PROMPT_LENGTH = 4_000_000  # characters that a template may make of a conversation

# Arguments of `apply_chat_template`, or set by this server: not available as variables.
RESERVED = frozenset({
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length",
    "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
})  # fmt: skip

_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of the same field; templates read the first
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation becomes a prompt; see transformers' `apply_chat_template`.

    `add_generation_prompt`: None: unless the last message is continued. `continue_final_message`: the prompt ends
    inside the last message, which the answer continues. `variables`: further ones, for the template.
    `add_special_tokens`: whether to add the tokenizer's, besides those of the template.
    """

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    documents: Sequence[Mapping[str, Any]] | None = None
    add_special_tokens: bool = False

    @property
    def generation_prompt(self) -> bool:
        """Whether the template writes the beginning of an answer."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    def check(self) -> None:
        """Raises InvalidRequest for contradictions, and for names that cannot be variables."""
        if self.continue_final_message and self.generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' goes on with the last message, and 'add_generation_prompt' begins a new one; "
                "set one of them",
                param="continue_final_message",
            )
        reserved = sorted(RESERVED & set(self.variables))
        if reserved:
            raise InvalidRequest(
                f"'chat_template_kwargs' has '{reserved[0]}', which is no variable of a template; "
                "what can be set stands in the request itself",
                param="chat_template_kwargs",
            )


PLAIN = ChatOptions()


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    template: str | None,
    system_prompt: str | None,
    options: ChatOptions = PLAIN,
) -> str:
    """The prompt, with whatever special tokens the template writes.

    `template`: Jinja, as tokenizers carry it; None: the tokenizer's. `system_prompt`: put first where the messages
    have none. Raises InvalidRequest where there is no template, or it rejects the messages, or takes too much time or
    memory; InputTooLong for too long a prompt; Overloaded where too many are being rendered.
    """
    if not messages:
        raise InvalidRequest("there are no messages", param="messages")
    options.check()
    plain = [_plain(message, i) for i, message in enumerate(messages)]
    if system_prompt is not None and plain[0]["role"] != "system":
        plain.insert(0, {"role": "system", "content": system_prompt})
    source = template if template is not None else _own_template(tokenizer)
    end = _mark_end(plain[-1], source) if options.continue_final_message else None
    variables = {
        **tokenizer.loaded.special_tokens_map,
        **options.variables,
        "messages": plain,
        "tools": None,
        "documents": None if options.documents is None else list(options.documents),
        "add_generation_prompt": options.generation_prompt,
    }
    processes = OWN if template is None else OTHERS
    text = processes.render(source, variables, MAX_PROMPT_LENGTH)
    return text if end is None else _continued(text, end)


def _own_template(tokenizer: Tokenizer) -> str:
    if tokenizer.loaded.chat_template:
        try:
            return str(tokenizer.loaded.get_chat_template())
        except ValueError as error:  # several templates without a default
            raise InvalidRequest(f"{error}", param="messages") from None
    raise InvalidRequest(
        "the backbone's tokenizer has no chat template; set one for the task (chat_template), or ask with a prompt",
        param="messages",
    )


def _plain(message: Message, index: int) -> dict[str, Any]:
    """All fields of a message, its content as one text; nulls are left out, as transformers does."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidRequest(f"message {index} has no role", param=f"messages.{index}.role")
    plain = {name: value for name, value in message.items() if value is not None}
    if isinstance(content, list):
        plain["content"] = _joined(content, index)
    elif not isinstance(content, str) and (content is not None or role != "assistant"):
        raise InvalidRequest(f"message {index} has no content", param=f"messages.{index}.content")
    elif content is None and not any(name in plain for name in ("tool_calls", *_REASONING)):
        plain["content"] = ""
    if "tool_calls" in plain:
        plain["tool_calls"] = _calls(plain["tool_calls"], index)
    reasoning = next((plain[name] for name in _REASONING if name in plain), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _joined(parts: Sequence[Any], index: int) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(
                f"message {index} has a part that is no text; texts are read alone", param=f"messages.{index}.content"
            )
        texts.append(part["text"])
    return "".join(texts)


def _calls(calls: Any, index: int) -> list[dict[str, Any]]:
    """Calls of tools. OpenAI's arguments are JSON in a text; templates expect the parsed value."""
    param = f"messages.{index}.tool_calls"
    if not isinstance(calls, list):
        raise InvalidRequest(f"message {index} has tool_calls that are no list", param=param)
    read = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"message {index} has a tool call without the name of a function", param=param)
        read.append({**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}})
    return read


def _arguments(value: Any) -> Any:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value  # a model's output may be invalid JSON
        return parsed if isinstance(parsed, dict) else value
    return value


def _mark_end(message: dict[str, Any], template: str) -> str:
    """Appends a tag to the last message's content. Returns the content."""
    content = message.get("content")
    if not isinstance(content, str):
        raise InvalidRequest(
            "'continue_final_message' is set, but the last message has no content", param="continue_final_message"
        )
    if "content" not in template:
        raise InvalidRequest(
            "'continue_final_message' is set, but the chat template writes no content", param="continue_final_message"
        )
    message["content"] = content + _TAG
    return content


def _continued(text: str, content: str) -> str:
    """The prompt up to the tag."""
    position = text.rfind(_TAG.strip())
    if position < 0 or content.strip() not in text:
        raise InvalidRequest(
            "'continue_final_message' is set, but the last message is not in the prompt as the chat template writes it",
            param="continue_final_message",
        )
    before = text[:position]
    kept = text[position : position + len(_TAG)] == _TAG
    return before if kept else before.rstrip()  # the template has trimmed the content

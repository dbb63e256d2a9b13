"""From the messages of a conversation to one prompt, by the tokenizer's or the task's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from manyhats.backbone import Tokenizer
from manyhats.errors import InvalidRequest

Message = Mapping[str, Any]


def chat_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], *, template: str | None, system_prompt: str | None
) -> str:
    """The prompt, with whatever special tokens the template writes.

    `template`: Jinja, as tokenizers carry it; None is the tokenizer's own. `system_prompt` stands first where the
    messages have none. Raises InvalidRequest where there is no template, or it refuses the messages.
    """
    if not messages:
        raise InvalidRequest("there are no messages", param="messages")
    plain = [_plain(message, i) for i, message in enumerate(messages)]
    if system_prompt is not None and plain[0]["role"] != "system":
        plain.insert(0, {"role": "system", "content": system_prompt})
    if template is None and not tokenizer.loaded.chat_template:
        raise InvalidRequest(
            "the backbone's tokenizer has no chat template; set one for the task (chat_template), or ask with a prompt",
            param="messages",
        )
    try:
        text: str = tokenizer.loaded.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=True, chat_template=template
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise InvalidRequest(f"the chat template refuses the messages: {error}", param="messages") from None
    return text


def _plain(message: Message, index: int) -> dict[str, Any]:
    """Role and content, the latter as one text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidRequest(f"message {index} has no role", param=f"messages.{index}.role")
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise InvalidRequest(
                    f"message {index} has a part that is no text; texts are read alone",
                    param=f"messages.{index}.content",
                )
            parts.append(part["text"])
        content = "".join(parts)
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise InvalidRequest(f"message {index} has no content", param=f"messages.{index}.content")
    return {"role": role, "content": content}

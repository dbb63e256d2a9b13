"""What a question may be made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from manyhats_client.choices import Message, Parameters

OneInput = str | Mapping[str, str]
Inputs = OneInput | Iterable[OneInput]
"""A text, a pair (`{"text": ..., "text_pair": ...}`), or many of them."""

Messages = str | Sequence[Message] | Sequence[Mapping[str, Any]]
"""A conversation; a text is one message of the user's."""


class Question(TypedDict):
    """One question of `predict_batch`."""

    task: str
    inputs: Inputs
    parameters: NotRequired[Parameters | Mapping[str, Any]]


def plain(inputs: Inputs) -> Any:
    """Inputs as they are sent."""
    if isinstance(inputs, str):
        return inputs
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return [one if isinstance(one, str) else dict(one) for one in inputs]


def conversation(messages: Messages) -> list[dict[str, Any]]:
    """Messages as they are sent."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(message) for message in messages]

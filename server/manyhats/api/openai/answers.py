"""What OpenAI's clients get, for /openapi.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from manyhats.api.schemas import AnswerBody

_FINGERPRINT = "fp_0f1e2d3c4b5a"
_ONE_MODEL: dict[str, Any] = {
    "id": "spam",
    "object": "model",
    "created": 1760000000,
    "owned_by": "manyhats",
    "root": "spam@3",
    "parent": "all-MiniLM-L6-v2",
    "max_model_len": 512,
    "permission": [],
}
_COUNTS: dict[str, Any] = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 0},
}


class ModelBody(AnswerBody):
    """A task, or the bare backbone, whose `parent` is null."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ONE_MODEL]})

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    permission: list[Any]


class ModelList(AnswerBody):
    """The bare backbone and tasks, a page of them. `last_id` is the `after` of the next page, where `has_more`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [_ONE_MODEL],
                    "has_more": False,
                    "first_id": _ONE_MODEL["id"],
                    "last_id": _ONE_MODEL["id"],
                }
            ]
        }
    )

    object: Literal["list"]
    data: list[ModelBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class CachedTokens(AnswerBody):
    """Tokens of the prompts that were found in the cache."""

    cached_tokens: int


class GenerationUsage(AnswerBody):
    """The counts. A prompt's tokens count once, however many texts follow it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class PromptToken(AnswerBody):
    """vLLM's values of a prompt's token."""

    logprob: float | None
    rank: int
    decoded_token: str


PromptTokens = list[dict[str, PromptToken] | None]


class CompletionLists(AnswerBody):
    """Lists by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int]


class CompletionChoice(AnswerBody):
    """A text. In a stream, what a token adds to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: CompletionLists | None
    prompt_logprobs: PromptTokens | None = None


class _About(AnswerBody):
    id: str
    created: int
    model: str
    system_fingerprint: str


class Completion(_About):
    """The texts that follow the prompts, `n` for each. With `stream`, each event is one, without `usage`; the last has
    no `choices`, and comes with `stream_options.include_usage`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "cmpl-0f0e0d0c0b0a09080706050403020100",
                    "created": 1760000000,
                    "model": "stories",
                    "system_fingerprint": _FINGERPRINT,
                    "object": "text_completion",
                    "choices": [{"index": 0, "text": " upon a", "finish_reason": "length", "logprobs": None}],
                    "usage": _COUNTS,
                }
            ]
        }
    )

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: GenerationUsage | None = None


class ChatEntry(AnswerBody):
    """A token."""

    token: str
    logprob: float | None
    bytes: list[int]


class ChatToken(ChatEntry):
    """A token, and the likeliest in its place."""

    top_logprobs: list[ChatEntry]


class ChatLogprobs(AnswerBody):
    """The text's tokens."""

    content: list[ChatToken]


class ChatMessage(AnswerBody):
    """What the task says."""

    role: Literal["assistant"]
    content: str


class ChatChoice(AnswerBody):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"] | None
    logprobs: ChatLogprobs | None


class ChatCompletion(_About):
    """The answers to a conversation, `n` of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-0f0e0d0c0b0a09080706050403020100",
                    "created": 1760000000,
                    "model": "stories",
                    "system_fingerprint": _FINGERPRINT,
                    "object": "chat.completion",
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "Good day."},
                            "finish_reason": "stop",
                            "logprobs": None,
                        }
                    ],
                    "usage": _COUNTS,
                }
            ]
        }
    )

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: GenerationUsage
    prompt_logprobs: PromptTokens | None = None


class ChatDelta(AnswerBody):
    """What a token adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(AnswerBody):
    """A part of one answer."""

    index: int
    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None
    logprobs: ChatLogprobs | None


class ChatCompletionChunk(_About):
    """With `stream`, each event; the last has no `choices`, and comes with `stream_options.include_usage`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-0f0e0d0c0b0a09080706050403020100",
                    "created": 1760000000,
                    "model": "stories",
                    "system_fingerprint": _FINGERPRINT,
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {"content": "Good"}, "finish_reason": None, "logprobs": None}],
                }
            ]
        }
    )

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: GenerationUsage | None = None

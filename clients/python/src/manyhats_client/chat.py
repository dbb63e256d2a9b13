"""Answers of chats, in OpenAI's form: whole, or in chunks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from manyhats_client.choices import FinishReason
from manyhats_client.models import InputWarning, Model, Reply


class CachedTokens(Model):
    """Tokens of the prompts that were found in the server's cache."""

    cached_tokens: int = 0


class ChatUsage(Model):
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: CachedTokens = Field(default_factory=CachedTokens)


class ChatToken(Model):
    """A token with its log probability."""

    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class LikelyChatToken(ChatToken):
    """A token, and the likeliest in its place."""

    top_logprobs: list[ChatToken] = Field(default_factory=list)


class ChatLogprobs(Model):
    """The tokens of a text."""

    content: list[LikelyChatToken] | None = None


class ChatMessage(Model):
    """What the task said."""

    role: str = "assistant"
    content: str | None = None


class ChatChoice(Model):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason | str | None = None
    logprobs: ChatLogprobs | None = None


class ChatAnswer(Reply):
    """The answers to a conversation, `n` of them."""

    id: str
    model: str
    created: int
    choices: list[ChatChoice]
    usage: ChatUsage | None = None
    system_fingerprint: str | None = None
    warnings: list[InputWarning] = Field(default_factory=list)

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.choices[0].message.content or ""


class ChatDelta(Model):
    """What a chunk adds to a message."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(Model):
    """What a chunk adds to one answer."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | str | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(Model):
    """One event of a streamed chat; the last has no choices, and the usage."""

    id: str
    model: str
    created: int
    choices: list[ChatChunkChoice]
    usage: ChatUsage | None = None
    system_fingerprint: str | None = None

    @property
    def text(self) -> str:
        """What it adds to the first answer."""
        return "".join(choice.delta.content or "" for choice in self.choices if choice.index == 0)


def joined(chunks: list[ChatChunk]) -> ChatAnswer:
    """The answer that the chunks of a stream, at least one, are the parts of."""
    choices: dict[int, ChatChoice] = {}
    about: dict[str, Any] = {}
    for chunk in chunks:
        about |= chunk.model_dump(include={"id", "model", "created", "usage", "system_fingerprint"}, exclude_none=True)
        for part in chunk.choices:
            choice = choices.setdefault(part.index, ChatChoice(index=part.index, message=ChatMessage(content="")))
            choice.message.role = part.delta.role or choice.message.role
            choice.message.content = (choice.message.content or "") + (part.delta.content or "")
            choice.finish_reason = part.finish_reason or choice.finish_reason
            if part.logprobs is not None:
                before = choice.logprobs.content if choice.logprobs else None
                choice.logprobs = ChatLogprobs(content=[*(before or []), *(part.logprobs.content or [])])
    return ChatAnswer(choices=[choices[index] for index in sorted(choices)], **about)

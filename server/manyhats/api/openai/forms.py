"""The shapes of answers: whole, or in pieces as the tokens come."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request

from manyhats.api.state import runtime_of
from manyhats.serving.question import Reply

if TYPE_CHECKING:
    from manyhats.engine.sampling import Chosen
    from manyhats.engine.stream import Delta, Stream


class Form(ABC):
    """The shape of answers, whole or in pieces. `echoes`: the prompts, where they are to stand before the texts."""

    object: Literal["text_completion", "chat.completion"]
    chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, request: Request, echoes: Sequence[str]) -> None:
        self.tokenizer = runtime_of(request).backbone.tokenizer
        self.echoes = echoes
        self.about = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.begun: set[int] = set()

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The answer in one piece."""
        assert reply.writing is not None
        choices = [self.choice(stream) for stream in reply.writing.streams]
        return self.about | {"object": self.object, "choices": choices, "usage": _usage(reply)}

    def last(self, reply: Reply) -> dict[str, Any]:
        """The piece behind all others, with the counts."""
        return self.about | {"object": self.chunk, "choices": [], "usage": _usage(reply)}

    @abstractmethod
    def choice(self, stream: Stream) -> dict[str, Any]:
        """One text."""

    @abstractmethod
    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        """What one token adds."""

    def echo(self, stream: Stream) -> str:
        """What stands before a text."""
        return self.echoes[stream.prompt_index] if self.echoes else ""


class Completions(Form):
    """A completion's."""

    object = "text_completion"

    def choice(self, stream: Stream) -> dict[str, Any]:
        text = self.echo(stream) + stream.text.text
        logprobs = self.logprobs(stream.tokens) if stream.sampling.logprobs is not None else None
        return {"index": stream.index, "text": text, "finish_reason": stream.finished, "logprobs": logprobs}

    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        told = delta.chosen is not None and delta.chosen.logprob is not None
        text = delta.text
        if delta.stream.index not in self.begun:
            text = self.echo(delta.stream) + text
        self.begun.add(delta.stream.index)
        if not text and not told and delta.finished is None:
            return []
        logprobs = self.logprobs([delta.chosen]) if told and delta.chosen else None
        choice = {"index": delta.stream.index, "text": text, "finish_reason": delta.finished, "logprobs": logprobs}
        return [self.about | {"object": self.chunk, "choices": [choice]}]

    def logprobs(self, chosen: Sequence[Chosen]) -> dict[str, Any]:
        """Lists by token, as completions have them."""
        pieces = [self.tokenizer.piece(one.token) for one in chosen]
        offsets = [sum(len(piece) for piece in pieces[:i]) for i in range(len(pieces))]
        return {
            "tokens": pieces,
            "token_logprobs": [one.logprob for one in chosen],
            "top_logprobs": [{self.tokenizer.piece(t): value for t, value in one.top} for one in chosen],
            "text_offset": offsets,
        }


class Chat(Form):
    """A chat's."""

    object = "chat.completion"
    prefix = "chatcmpl"
    chunk = "chat.completion.chunk"

    def choice(self, stream: Stream) -> dict[str, Any]:
        logprobs = self.logprobs(stream.tokens) if stream.sampling.logprobs is not None else None
        message = {"role": "assistant", "content": stream.text.text}
        return {"index": stream.index, "message": message, "finish_reason": stream.finished, "logprobs": logprobs}

    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        events: list[Mapping[str, Any]] = []
        if delta.stream.index not in self.begun:
            self.begun.add(delta.stream.index)
            events.append({"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None})
        told = delta.chosen is not None and delta.chosen.logprob is not None
        if delta.text or told:
            logprobs = self.logprobs([delta.chosen]) if told and delta.chosen else None
            events.append({"delta": {"content": delta.text}, "finish_reason": None, "logprobs": logprobs})
        if delta.finished is not None:
            events.append({"delta": {}, "finish_reason": delta.finished, "logprobs": None})
        return [self.about | {"object": self.chunk, "choices": [{"index": delta.stream.index, **e}]} for e in events]

    def logprobs(self, chosen: Sequence[Chosen]) -> dict[str, Any]:
        """A list of tokens, as chats have it."""
        return {
            "content": [
                self._told(one.token, one.logprob) | {"top_logprobs": [self._told(t, value) for t, value in one.top]}
                for one in chosen
            ]
        }

    def _told(self, token: int, logprob: float | None) -> dict[str, Any]:
        piece = self.tokenizer.piece(token)
        return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.input_tokens + reply.output_tokens
    return {"prompt_tokens": reply.input_tokens, "completion_tokens": reply.output_tokens, "total_tokens": total}

"""The shapes of answers: whole, or in pieces as the tokens come."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request

from manyhats.api.openai.logprobs import CompletionLogprobs, alternatives, chat_token, prompt_logprobs
from manyhats.api.state import runtime_of
from manyhats.serving.inference import InferenceResponse
from manyhats.serving.token_texts import TokenText, TokenTexts, prompt_token_texts

if TYPE_CHECKING:
    from manyhats.engine.sampling import Chosen
    from manyhats.engine.stream import Delta, Stream


class ResponseFormatter(ABC):
    """The shape of answers, whole or in chunks.

    `prompt_logprobs`: whether vLLM's values of the prompts' tokens are told.
    """

    object: Literal["text_completion", "chat.completion"]
    chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, request: Request, *, prompt_logprobs: bool = False) -> None:
        self.tokenizer = runtime_of(request).backbone.tokenizer
        self.prompt_logprobs = prompt_logprobs
        self.about = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.started_choices: set[int] = set()
        self._writers: dict[int, TokenTexts] = {}  # of streams

    @abstractmethod
    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        """The answer in one piece."""

    def last(self, result: InferenceResponse) -> dict[str, Any]:
        """The piece behind all others, with the counts."""
        return self.about | {"object": self.chunk, "choices": [], "usage": _usage(result)}

    @abstractmethod
    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """What one token adds."""

    def _writer(self, stream: Stream, offset: int = 0) -> TokenTexts:
        return TokenTexts(self.tokenizer, offset, skip_special=stream.text.skip_special)

    def _all(self, result: InferenceResponse, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self.about | {"object": self.object, "choices": choices, "usage": _usage(result)}


class Completions(ResponseFormatter):
    """A completion's. `echoes`: whether the prompts stand before the texts."""

    object = "text_completion"

    def __init__(self, model: str, request: Request, *, echoes: bool = False, prompt_logprobs: bool = False) -> None:
        super().__init__(model, request, prompt_logprobs=prompt_logprobs)
        self.echoes = echoes
        self._prompts: dict[int, tuple[str, CompletionLogprobs]] = {}

    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        assert result.writing is not None
        return self._all(result, [self._choice(stream) for stream in result.writing.streams])

    def _choice(self, stream: Stream) -> dict[str, Any]:
        echo, prompt = self._echo(stream)
        told = None
        if stream.sampling.logprobs is not None:
            writer = self._writer(stream, len(echo))
            told = prompt.copy()
            for chosen in [*stream.tokens, *self._end_of(stream)]:
                _tell(told, writer, chosen)
        choice = {
            "index": stream.index,
            "text": echo + stream.text.text,
            "finish_reason": stream.finished,
            "logprobs": told and told.body(),
        }
        if self.prompt_logprobs and stream.scores is not None:
            choice["prompt_logprobs"] = prompt_logprobs(stream.scores, self.tokenizer)
        return choice

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        stream, text = delta.stream, delta.text
        told = CompletionLogprobs() if stream.sampling.logprobs is not None else None
        if stream.index not in self.started_choices:
            self.started_choices.add(stream.index)
            echo, prompt = self._echo(stream)
            text = echo + text
            if told is not None:
                self._writers[stream.index] = self._writer(stream, len(echo))
                told = prompt.copy()
        ended = self._end_of(stream) if delta.finished is not None else []
        for chosen in [*([] if delta.chosen is None else [delta.chosen]), *ended]:
            if told is not None:
                _tell(told, self._writers[stream.index], chosen)
        logprobs = told.body() if told is not None and told.tokens else None
        if not text and logprobs is None and delta.finished is None:
            return []
        choice = {"index": stream.index, "text": text, "finish_reason": delta.finished, "logprobs": logprobs}
        return [self.about | {"object": self.chunk, "choices": [choice]}]

    def _echo(self, stream: Stream) -> tuple[str, CompletionLogprobs]:
        """What stands before a text, and what is told of its tokens; the same for all texts of a prompt."""
        if not self.echoes:
            return "", CompletionLogprobs()
        known = self._prompts.get(stream.prompt_index)
        if known is None:
            echo, tokens = prompt_token_texts(
                self.tokenizer, *stream.writing.prompts[stream.prompt_index], skip_special=stream.text.skip_special
            )
            known = self._prompts[stream.prompt_index] = echo, self._scored(stream, tokens)
        return known

    def _scored(self, stream: Stream, tokens: Sequence[TokenText]) -> CompletionLogprobs:
        told = CompletionLogprobs()
        if stream.scores is not None:
            writer = TokenTexts(self.tokenizer)
            for i, (token, score) in enumerate(zip(tokens, stream.scores.scores, strict=True)):
                told.add(token, score, [] if score is None else alternatives(writer, score))
                writer.first = writer.first and i < 1 and not token.text
        return told

    def _end_of(self, stream: Stream) -> list[Chosen]:
        """The token that ended a text. With its prompt it is told, so that the lists have an entry for each token that
        was asked for: evaluation harnesses count from the end."""
        return [stream.ended_by] if self.echoes and stream.ended_by is not None else []


class Chat(ResponseFormatter):
    """A chat's."""

    object = "chat.completion"
    prefix = "chatcmpl"
    chunk = "chat.completion.chunk"

    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        assert result.writing is not None
        streams = result.writing.streams
        body = self._all(result, [self._choice(stream) for stream in streams])
        if self.prompt_logprobs and streams[0].scores is not None:
            body["prompt_logprobs"] = prompt_logprobs(streams[0].scores, self.tokenizer)
        return body

    def _choice(self, stream: Stream) -> dict[str, Any]:
        logprobs = None
        if stream.sampling.logprobs is not None:
            writer = self._writer(stream)
            logprobs = {"content": [_chat_told(writer, chosen) for chosen in stream.tokens]}
        message = {"role": "assistant", "content": stream.text.text}
        return {"index": stream.index, "message": message, "finish_reason": stream.finished, "logprobs": logprobs}

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        events: list[Mapping[str, Any]] = []
        index = delta.stream.index
        if index not in self.started_choices:
            self.started_choices.add(index)
            self._writers[index] = self._writer(delta.stream)
            events.append({"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None})
        told = delta.chosen is not None and delta.chosen.logprob is not None
        if delta.text or told:
            logprobs = None
            if told and delta.chosen is not None:
                logprobs = {"content": [_chat_told(self._writers[index], delta.chosen)]}
            events.append({"delta": {"content": delta.text}, "finish_reason": None, "logprobs": logprobs})
        if delta.finished is not None:
            events.append({"delta": {}, "finish_reason": delta.finished, "logprobs": None})
        return [self.about | {"object": self.chunk, "choices": [{"index": index, **e}]} for e in events]


def _tell(told: CompletionLogprobs, writer: TokenTexts, chosen: Chosen) -> None:
    others = alternatives(writer, chosen)
    told.add(writer.push(chosen.token), chosen, others)


def _chat_told(writer: TokenTexts, chosen: Chosen) -> dict[str, Any]:
    others = alternatives(writer, chosen)
    return chat_token(writer.push(chosen.token), chosen, others)


def _usage(result: InferenceResponse) -> dict[str, int]:
    total = result.input_tokens + result.output_tokens
    return {"prompt_tokens": result.input_tokens, "completion_tokens": result.output_tokens, "total_tokens": total}

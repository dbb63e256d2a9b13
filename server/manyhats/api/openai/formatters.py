"""The shapes of answers: whole, or in chunks as the tokens come."""

from __future__ import annotations

import hashlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence as Many
from functools import cache
from typing import Any, Literal

from fastapi import Request

from manyhats._version import __version__
from manyhats.api.openai.logprobs import CompletionLogprobs, alternatives, chat_token, prompt_logprobs
from manyhats.api.state import runtime_of
from manyhats.core.sampling_params import SampledToken
from manyhats.core.sequence import Delta, Sequence
from manyhats.serving.generation import prompt_logprobs_of, sampling_of, text_of
from manyhats.serving.inference import InferenceResponse
from manyhats.serving.token_texts import TokenText, TokenTexts, prompt_token_texts


class ResponseFormatter(ABC):
    """The shape of answers, whole or in chunks.

    `prompt_logprobs`: whether vLLM's values of the prompts' tokens are included.
    """

    object: Literal["text_completion", "chat.completion"]
    chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, request: Request, *, prompt_logprobs: bool = False) -> None:
        backbone = runtime_of(request).backbone
        self.tokenizer = backbone.tokenizer
        self.prompt_logprobs = prompt_logprobs
        self.about = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": _fingerprint(
                __version__, backbone.sha256, backbone.name, str(backbone.dtype), backbone.device.type
            ),
        }
        self.started_choices: set[int] = set()
        self._writers: dict[int, TokenTexts] = {}  # of sequences

    @abstractmethod
    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        """The whole answer."""

    def last(self, result: InferenceResponse) -> dict[str, Any]:
        """The chunk behind all others, with the counts."""
        return self.about | {"object": self.chunk, "choices": [], "usage": _usage(result)}

    @abstractmethod
    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """What one token adds."""

    def _writer(self, sequence: Sequence, offset: int = 0) -> TokenTexts:
        return TokenTexts(self.tokenizer, offset, skip_special=text_of(sequence).skip_special)

    def _all(self, result: InferenceResponse, choices: Many[Mapping[str, Any]]) -> dict[str, Any]:
        return self.about | {"object": self.object, "choices": choices, "usage": _usage(result)}


class Completions(ResponseFormatter):
    """A completion's. `echoes`: whether the prompts stand before the texts."""

    object = "text_completion"

    def __init__(self, model: str, request: Request, *, echoes: bool = False, prompt_logprobs: bool = False) -> None:
        super().__init__(model, request, prompt_logprobs=prompt_logprobs)
        self.echoes = echoes
        self._prompts: dict[int, tuple[str, CompletionLogprobs]] = {}

    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        return self._all(result, [self._choice(sequence) for sequence in result.sequences])

    def _choice(self, sequence: Sequence) -> dict[str, Any]:
        echo, prompt = self._echo(sequence)
        logprobs = None
        if sampling_of(sequence).logprobs is not None:
            writer = self._writer(sequence, len(echo))
            logprobs = prompt.copy()
            for sampled in [*sequence.emitted_tokens, *self._end_of(sequence)]:
                _append(logprobs, writer, sampled)
        choice = {
            "index": sequence.index,
            "text": echo + text_of(sequence).text,
            "finish_reason": sequence.finish_reason,
            "logprobs": logprobs and logprobs.body(),
        }
        if self.prompt_logprobs and (scores := prompt_logprobs_of(sequence)) is not None:
            choice["prompt_logprobs"] = prompt_logprobs(scores, self.tokenizer)
        return choice

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        sequence, text = delta.sequence, delta.text
        added = CompletionLogprobs() if sampling_of(sequence).logprobs is not None else None
        if sequence.index not in self.started_choices:
            self.started_choices.add(sequence.index)
            echo, prompt = self._echo(sequence)
            text = echo + text
            if added is not None:
                self._writers[sequence.index] = self._writer(sequence, len(echo))
                added = prompt.copy()
        ended = self._end_of(sequence) if delta.finish_reason is not None else []
        for sampled in [*([] if delta.token is None else [delta.token]), *ended]:
            if added is not None:
                _append(added, self._writers[sequence.index], sampled)
        logprobs = added.body() if added is not None and added.tokens else None
        if not text and logprobs is None and delta.finish_reason is None:
            return []
        choice = {"index": sequence.index, "text": text, "finish_reason": delta.finish_reason, "logprobs": logprobs}
        return [self.about | {"object": self.chunk, "choices": [choice]}]

    def _echo(self, sequence: Sequence) -> tuple[str, CompletionLogprobs]:
        """What stands before a text, with its logprobs; the same for all texts of a prompt."""
        if not self.echoes:
            return "", CompletionLogprobs()
        known = self._prompts.get(sequence.prompt_index)
        if known is None:
            echo, tokens = prompt_token_texts(
                self.tokenizer,
                *sequence.request.prompts[sequence.prompt_index],
                skip_special=text_of(sequence).skip_special,
            )
            known = self._prompts[sequence.prompt_index] = echo, self._scored(sequence, tokens)
        return known

    def _scored(self, sequence: Sequence, tokens: Many[TokenText]) -> CompletionLogprobs:
        logprobs = CompletionLogprobs()
        if (scores := prompt_logprobs_of(sequence)) is not None:
            writer = TokenTexts(self.tokenizer)
            for i, (token, score) in enumerate(zip(tokens, scores.scores, strict=True)):
                logprobs.add(token, score, [] if score is None else alternatives(writer, score))
                writer.first = writer.first and i < 1 and not token.text
        return logprobs

    def _end_of(self, sequence: Sequence) -> list[SampledToken]:
        """The token that ended a text. It is included behind an echoed prompt, so that the lists have an entry for each
        token that was asked for: evaluation harnesses count from the end."""
        return [sequence.ended_by] if self.echoes and sequence.ended_by is not None else []


class Chat(ResponseFormatter):
    """A chat's."""

    object = "chat.completion"
    prefix = "chatcmpl"
    chunk = "chat.completion.chunk"

    def whole(self, result: InferenceResponse) -> dict[str, Any]:
        sequences = result.sequences
        body = self._all(result, [self._choice(sequence) for sequence in sequences])
        if self.prompt_logprobs and (scores := prompt_logprobs_of(sequences[0])) is not None:
            body["prompt_logprobs"] = prompt_logprobs(scores, self.tokenizer)
        return body

    def _choice(self, sequence: Sequence) -> dict[str, Any]:
        logprobs = None
        if sampling_of(sequence).logprobs is not None:
            writer = self._writer(sequence)
            logprobs = {"content": [_chat_logprobs(writer, sampled) for sampled in sequence.emitted_tokens]}
        message = {"role": "assistant", "content": text_of(sequence).text}
        return {
            "index": sequence.index,
            "message": message,
            "finish_reason": sequence.finish_reason,
            "logprobs": logprobs,
        }

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        events: list[Mapping[str, Any]] = []
        index = delta.sequence.index
        if index not in self.started_choices:
            self.started_choices.add(index)
            self._writers[index] = self._writer(delta.sequence)
            events.append({"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None})
        has_logprob = delta.token is not None and delta.token.logprob is not None
        if delta.text or has_logprob:
            logprobs = None
            if has_logprob and delta.token is not None:
                logprobs = {"content": [_chat_logprobs(self._writers[index], delta.token)]}
            events.append({"delta": {"content": delta.text}, "finish_reason": None, "logprobs": logprobs})
        if delta.finish_reason is not None:
            events.append({"delta": {}, "finish_reason": delta.finish_reason, "logprobs": None})
        return [self.about | {"object": self.chunk, "choices": [{"index": index, **e}]} for e in events]


def _append(logprobs: CompletionLogprobs, writer: TokenTexts, sampled: SampledToken) -> None:
    others = alternatives(writer, sampled)
    logprobs.add(writer.push(sampled.token), sampled, others)


def _chat_logprobs(writer: TokenTexts, sampled: SampledToken) -> dict[str, Any]:
    others = alternatives(writer, sampled)
    return chat_token(writer.push(sampled.token), sampled, others)


def _usage(result: InferenceResponse) -> dict[str, Any]:
    """The counts. A prompt's tokens count once, however many texts follow it."""
    first = (s for s in result.sequences if s.index % s.request.samples_per_prompt == 0)
    return {
        "prompt_tokens": result.input_tokens,
        "completion_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(sequence.cached_tokens for sequence in first)},
    }


@cache
def _fingerprint(*parts: str) -> str:
    """A name of what answers are computed with: the same seed gives the same text as long as it stays the same."""
    return f"fp_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"

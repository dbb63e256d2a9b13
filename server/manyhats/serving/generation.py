"""From a question to the texts that the engine writes for it, and back to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyhats.backbone import Backbone, Encoded, Tokenizer
from manyhats.engine.generator import Generator
from manyhats.engine.sampling import BadWords, Chosen, Sampling
from manyhats.engine.scoring import PromptScores, Score
from manyhats.engine.stream import Delta, Stream, Writing
from manyhats.engine.structured_output import Grammar, Grammars
from manyhats.engine.text import TextWriter
from manyhats.errors import InputTooLong, InvalidRequest
from manyhats.methods.adapter import BoundAdapter
from manyhats.serving.inputs import Notice
from manyhats.serving.outputs import Answer
from manyhats.serving.parameters import GenerateParameters
from manyhats.serving.response_format import grammar_of

_LONGEST_WORD = 1000  # tokens of a bad word

_LOG_OF_NOTHING = -9999.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks: the task, what names its adapter's weights, and how it wants to be told of each token.

    `stop_token_ids`: tokens that end the task's texts, beside the backbone's own.
    """

    task: str
    digest: str
    adapter: BoundAdapter
    priority: int = 0
    listener: Callable[[Delta], None] | None = None
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the texts of a question may have; see `engine.stream.Stream`."""

    ends: frozenset[int]
    kept_ends: frozenset[int]
    allowed: Tensor | None
    bad_words: BadWords | None
    grammar: Grammar | None  # as it begins


class Generation:
    """Makes the texts of questions for one backbone. May be used from any thread."""

    def __init__(self, backbone: Backbone, generator: Generator) -> None:
        self.backbone = backbone
        self.generator = generator
        self.vocabulary = int(backbone.config.vocab_size)
        self._grammars: Grammars | None = None

    def open(
        self, asked: Asked, prompts: Sequence[tuple[str | None, Encoded]], parameters: GenerateParameters, places: int
    ) -> tuple[Writing, list[Notice]]:
        """The texts for some prompts, `parameters.n` for each, and what the caller should know about them.

        `prompts`: tokens, with the texts that they come from, or None where they were given as such. `places`: the most
        tokens of a text, new ones too. Raises InvalidRequest, or InputTooLong where a prompt leaves no room.
        """
        self._check(parameters)
        constraints = self._constraints(asked, parameters)
        notices: list[Notice] = []
        streams: list[Stream] = []
        least = min(parameters.max_new_tokens, 1)
        for i, (_, encoded) in enumerate(prompts):
            prompt = encoded.ids
            room = min(parameters.max_new_tokens, self._room(asked.adapter, len(prompt), places, i, least))
            told = parameters.prompt_logprobs
            scores = None if told is None else PromptScores(prompt, told)
            if room < parameters.max_new_tokens:
                wanted = parameters.max_new_tokens
                why = f"max_new_tokens is {wanted}, but after input {i} there is room for {room} tokens"
                notices.append(Notice(i, "max_new_tokens", why))
            for _ in range(parameters.n):
                stream = self._stream(asked, prompt, room, parameters, len(streams), constraints)
                stream.scores = scores
                streams.append(stream)
        writing = Writing(
            asked.task, asked.digest, streams, parameters.n, asked.priority, asked.listener, prompts=prompts
        )
        return writing, notices

    def answers(self, writing: Writing, parameters: GenerateParameters) -> list[Answer]:
        """One for each prompt, the further texts of it under `choices`."""
        tokenizer = self.backbone.tokenizer
        texts = [_answer(stream, parameters, tokenizer) for stream in writing.streams]
        if parameters.n == 1:
            return texts
        groups = [texts[i : i + parameters.n] for i in range(0, len(texts), parameters.n)]
        return [group[0] | {"choices": group} for group in groups]

    # ---- parts of one text

    def _stream(
        self,
        asked: Asked,
        prompt: Sequence[int],
        room: int,
        parameters: GenerateParameters,
        index: int,
        constraints: Constraints,
    ) -> Stream:
        return Stream(
            index=index,
            adapter=asked.adapter,
            prompt=prompt,
            room=room,
            sampling=Sampling(
                temperature=parameters.temperature,
                top_k=parameters.top_k,
                top_p=parameters.top_p,
                min_p=parameters.min_p,
                repetition=parameters.repetition_penalty,
                presence=parameters.presence_penalty,
                frequency=parameters.frequency_penalty,
                bias=parameters.biases,
                seed=parameters.seed_of(index % parameters.n),
                logprobs=parameters.logprobs,
                bad_words=constraints.bad_words,
                min_tokens=parameters.min_tokens,
            ),
            ends=constraints.ends,
            kept_ends=constraints.kept_ends,
            allowed=constraints.allowed,
            text=TextWriter(
                self.backbone.tokenizer,
                parameters.stop,
                keep_stop=parameters.include_stop,
                stop_after=parameters.min_tokens,
                skip_special=parameters.skip_special_tokens,
            ),
            grammar=None if constraints.grammar is None else constraints.grammar.copy(),
        )

    def _constraints(self, asked: Asked, parameters: GenerateParameters) -> Constraints:
        """What all texts of a question share. `ignore_eos` leaves out all ends of a text but the request's own."""
        own = frozenset() if parameters.ignore_eos else self.backbone.end_tokens | asked.stop_token_ids
        stops = frozenset(parameters.stop_token_ids)
        allowed = None
        if parameters.allowed_token_ids is not None:
            allowed = torch.zeros(self.vocabulary, dtype=torch.bool)
            allowed[parameters.allowed_token_ids] = True
        return Constraints(
            ends=own | stops,
            kept_ends=stops - own if parameters.include_stop else frozenset(),
            allowed=allowed,
            bad_words=self._bad_words(parameters.bad_words),
            grammar=grammar_of(parameters, self._all_grammars),
        )

    def _bad_words(self, words: Sequence[str]) -> BadWords | None:
        """Each word as it is written at the beginning of a text, and behind a space."""
        if not words:
            return None
        tokenizer = self.backbone.tokenizer
        sequences = [
            tokenizer.encode_bare(text, _LONGEST_WORD).ids
            for word in words
            for text in (word.lstrip(), f" {word.lstrip()}")
        ]
        return BadWords(ids for ids in sequences if ids)

    def _room(self, adapter: BoundAdapter, prompt: int, places: int, index: int, least: int) -> int:
        """How many tokens may follow a prompt. Raises InputTooLong for fewer than `least`."""
        rows = self.generator.capacity(adapter)
        room = min(places - prompt, rows - prompt)
        if room < least:
            why = f"the backbone takes {places}" if places <= rows else f"the cache for generation holds {rows}"
            more = ", and at least one is written" if least else ""
            raise InputTooLong(f"input {index} has {prompt} tokens; {why}{more}", param=f"inputs.{index}")
        return room

    def _all_grammars(self) -> Grammars:
        if self._grammars is None:
            end = min(self.backbone.end_tokens, default=None)
            self._grammars = Grammars(self.backbone.tokenizer, self.vocabulary, end)
        return self._grammars

    def _check(self, parameters: GenerateParameters) -> None:
        named = {
            "logit_bias": parameters.biases,
            "stop_token_ids": parameters.stop_token_ids,
            "allowed_token_ids": parameters.allowed_token_ids or (),
        }
        for name, tokens in named.items():
            strange = next((token for token in tokens if token >= self.vocabulary), None)
            if strange is not None:
                raise InvalidRequest(
                    f"{name} names the token {strange}; the backbone has 0 to {self.vocabulary - 1}", param=name
                )


def told_tokens(chosen: Sequence[Chosen | Score], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Each token with its logarithm of probability, and the likeliest in its place."""
    return [
        {
            "token": one.token,
            "text": tokenizer.piece(one.token),
            "logprob": finite(one.logprob),
            "top": [{"token": t, "text": tokenizer.piece(t), "logprob": finite(value)} for t, value in one.top],
        }
        for one in chosen
    ]


def finite(logprob: float | None) -> float | None:
    """The logarithm of a probability of 0 is no number in JSON; OpenAI's servers write -9999."""
    return None if logprob is None else max(logprob, _LOG_OF_NOTHING)


def _scored(scores: PromptScores, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The prompt's tokens, the first without a value."""
    told: list[dict[str, Any]] = []
    for token, one in zip(scores.prompt, scores.scores, strict=True):
        if one is None:
            told.append({"token": token, "text": tokenizer.piece(token), "logprob": None, "rank": None, "top": []})
        else:
            told += [known | {"rank": one.rank} for known in told_tokens([one], tokenizer)]
    return told


def _answer(stream: Stream, parameters: GenerateParameters, tokenizer: Tokenizer) -> Answer:
    answer: Answer = {
        "text": stream.text.text,
        "finish_reason": stream.finished,
        "tokens": [chosen.token for chosen in stream.tokens],
    }
    if parameters.logprobs is not None:
        answer["logprobs"] = told_tokens(stream.tokens, tokenizer)
    if stream.scores is not None:
        answer["prompt_logprobs"] = _scored(stream.scores, tokenizer)
    return answer

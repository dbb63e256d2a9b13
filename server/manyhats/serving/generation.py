"""From a question to the texts that the engine writes for it, and back to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyhats.backbone import Backbone, Tokenizer
from manyhats.engine.generator import Generator
from manyhats.engine.grammar import Grammar, Grammars
from manyhats.engine.sampling import BadWords, Chosen, Sampling
from manyhats.engine.stream import Delta, Stream, Writing
from manyhats.engine.text import TextWriter
from manyhats.errors import InputTooLong, InvalidRequest
from manyhats.methods.adapter import BoundAdapter
from manyhats.serving.inputs import Notice
from manyhats.serving.outputs import Answer
from manyhats.serving.parameters import GenerateParameters
from manyhats.serving.structured_output import grammar_of

_LONGEST_WORD = 1000  # tokens of a bad word


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks: the task, what names its adapter's weights, and how it wants to be told of each token."""

    task: str
    digest: str
    adapter: BoundAdapter
    priority: int = 0
    listener: Callable[[Delta], None] | None = None


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
        self, asked: Asked, prompts: Sequence[Sequence[int]], parameters: GenerateParameters, places: int
    ) -> tuple[Writing, list[Notice]]:
        """The texts for some prompts, `parameters.n` for each, and what the caller should know about them.

        `places`: the most tokens of a text, new ones too. Raises InvalidRequest, or InputTooLong where a prompt leaves
        no room for an answer.
        """
        self._check(parameters)
        constraints = self._constraints(parameters)
        notices: list[Notice] = []
        streams: list[Stream] = []
        for i, prompt in enumerate(prompts):
            room = min(parameters.max_new_tokens, self._room(asked.adapter, len(prompt), places, i))
            if room < parameters.max_new_tokens:
                wanted = parameters.max_new_tokens
                told = f"max_new_tokens is {wanted}, but after input {i} there is room for {room} tokens"
                notices.append(Notice(i, "max_new_tokens", told))
            for _ in range(parameters.n):
                streams.append(self._stream(asked, prompt, room, parameters, len(streams), constraints))
        writing = Writing(asked.task, asked.digest, streams, parameters.n, asked.priority, asked.listener)
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

    def _constraints(self, parameters: GenerateParameters) -> Constraints:
        """What all texts of a question share."""
        own = frozenset() if parameters.ignore_eos else self.backbone.end_tokens
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

    def _room(self, adapter: BoundAdapter, prompt: int, places: int, index: int) -> int:
        """How many tokens may follow a prompt. Raises InputTooLong for none."""
        rows = self.generator.capacity(adapter)
        room = min(places - prompt, rows - prompt)
        if room < 1:
            why = f"the backbone takes {places}" if places <= rows else f"the cache for generation holds {rows}"
            raise InputTooLong(
                f"input {index} has {prompt} tokens; {why}, and at least one is written", param=f"inputs.{index}"
            )
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


def told_tokens(chosen: Sequence[Chosen], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Each token with its logarithm of probability, and the likeliest in its place."""
    return [
        {
            "token": one.token,
            "text": tokenizer.piece(one.token),
            "logprob": one.logprob,
            "top": [{"token": t, "text": tokenizer.piece(t), "logprob": value} for t, value in one.top],
        }
        for one in chosen
    ]


def _answer(stream: Stream, parameters: GenerateParameters, tokenizer: Tokenizer) -> Answer:
    answer: Answer = {
        "text": stream.text.text,
        "finish_reason": stream.finished,
        "tokens": [chosen.token for chosen in stream.tokens],
    }
    if parameters.logprobs is not None:
        answer["logprobs"] = told_tokens(stream.tokens, tokenizer)
    return answer

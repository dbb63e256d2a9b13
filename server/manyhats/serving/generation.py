"""From a question to the texts that the engine writes for it, and back to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from manyhats.backbone import Backbone, Encoded, Tokenizer
from manyhats.engine.generator import Generator
from manyhats.engine.grammar import Grammar, Grammars
from manyhats.engine.sampling import Chosen, Sampling
from manyhats.engine.scoring import PromptScores, Score
from manyhats.engine.stream import Delta, Stream, Writing
from manyhats.engine.text import TextWriter
from manyhats.errors import InputTooLong, InvalidRequest
from manyhats.methods.adapter import BoundAdapter
from manyhats.serving.inputs import Notice
from manyhats.serving.outputs import Answer
from manyhats.serving.parameters import GenerateParameters

_LOG_OF_NOTHING = -9999.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks: the task, what names its adapter's weights, and how it wants to be told of each token."""

    task: str
    digest: str
    adapter: BoundAdapter
    priority: int = 0
    listener: Callable[[Delta], None] | None = None


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
                stream = self._stream(asked, prompt, room, parameters, len(streams))
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
        self, asked: Asked, prompt: Sequence[int], room: int, parameters: GenerateParameters, index: int
    ) -> Stream:
        seed = None if parameters.seed is None else parameters.seed + index % parameters.n
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
                seed=seed,
                logprobs=parameters.logprobs,
            ),
            ends=frozenset() if parameters.ignore_eos else self.backbone.end_tokens,
            text=TextWriter(self.backbone.tokenizer, parameters.stops, keep_stop=parameters.include_stop),
            grammar=self._grammar(parameters),
        )

    def _room(self, adapter: BoundAdapter, prompt: int, places: int, index: int, least: int) -> int:
        """How many tokens may follow a prompt. Raises InputTooLong for fewer than `least`."""
        rows = self.generator.capacity(adapter)
        room = min(places - prompt, rows - prompt)
        if room < least:
            why = f"the backbone takes {places}" if places <= rows else f"the cache for generation holds {rows}"
            more = ", and at least one is written" if least else ""
            raise InputTooLong(f"input {index} has {prompt} tokens; {why}{more}", param=f"inputs.{index}")
        return room

    def _grammar(self, parameters: GenerateParameters) -> Grammar | None:
        wanted = parameters.response_format
        if parameters.regex is None and (wanted is None or wanted.get("type") == "text"):
            return None
        if self._grammars is None:
            end = min(self.backbone.end_tokens, default=None)
            self._grammars = Grammars(self.backbone.tokenizer, self.vocabulary, end)
        if parameters.regex is not None:
            return self._grammars.regex(parameters.regex)
        assert wanted is not None
        match wanted.get("type"):
            case "json_object":
                return self._grammars.json_object()
            case "json_schema":
                inner = wanted.get("json_schema", wanted)
                schema = inner.get("schema") if isinstance(inner, dict) else None
                if schema is None:
                    raise InvalidRequest(
                        "response_format of type json_schema needs {'json_schema': {'schema': ...}}",
                        param="response_format",
                    )
                return self._grammars.json_schema(schema)
            case other:
                raise InvalidRequest(
                    f"response_format has the type {other!r}; these are: text, json_object, json_schema",
                    param="response_format",
                )

    def _check(self, parameters: GenerateParameters) -> None:
        for token in parameters.biases:
            if not 0 <= token < self.vocabulary:
                raise InvalidRequest(
                    f"logit_bias names the token {token}; the backbone has 0 to {self.vocabulary - 1}",
                    param="logit_bias",
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

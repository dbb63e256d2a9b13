"""From requests to tasks that generate to the engine's requests, and back to answers."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

import torch

from manyhats.backbone import Backbone, Encoded, Tokenizer
from manyhats.core.kinds.base import Answer
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.core.sampling_params import BadWords, SampledToken, SamplingParams
from manyhats.core.sequence import Delta, Request, Sequence, TextDecoder
from manyhats.engine.detokenizer import IncrementalDetokenizer
from manyhats.engine.prompt_logprobs import PromptLogprob as PromptLogprob
from manyhats.engine.prompt_logprobs import PromptLogprobs as PromptLogprobs
from manyhats.engine.structured_output import Grammar, Grammars
from manyhats.errors import InputTooLong, InvalidRequest
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.serving.inputs import InputWarning
from manyhats.serving.response_format import grammar_of

_LONGEST_WORD = 1000  # tokens of a bad word

_TOKEN_COST = 32  # the cost of a token with text and logprob, in values
_LOGPROB_OF_ZERO = -9999.0


@dataclass(frozen=True, slots=True)
class GenerationContext:
    """A request's context besides prompts and parameters.

    `digest`: identifies its adapter's weights. `listener`: called for each token. `stop_token_ids`: the task's tokens
    that end a text, in addition to the backbone's.
    """

    task: str
    tenant: str
    digest: str
    adapter: BoundAdapter
    priority: int = 0
    listener: Callable[[Delta], None] | None = None
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Shared:
    """Shared by all sequences of a request: their parameters, except for length and seed, and the grammar's initial
    state."""

    params: SamplingParams
    grammar: Grammar | None


class Generation:
    """Makes the engine's requests for one backbone. May be used from any thread.

    `capacity`: the maximum tokens of a sequence with an adapter in the cache.
    """

    def __init__(self, backbone: Backbone, capacity: Callable[[BoundAdapter], int]) -> None:
        self.backbone = backbone
        self.vocabulary = int(backbone.config.vocab_size)
        self._capacity = capacity
        self._grammars: Grammars | None = None

    def request(
        self,
        context: GenerationContext,
        prompts: Many[tuple[str | None, Encoded]],
        parameters: GenerateParameters,
        max_tokens: int,
    ) -> tuple[Request, list[InputWarning]]:
        """The sequences for some prompts, `parameters.n` for each, and warnings for the caller.

        `prompts`: tokens, with their texts, or None where they were given as tokens. `max_tokens`: of a sequence, new
        ones included. Raises InvalidRequest, or InputTooLong where no new one fits.
        """
        self._check(parameters)
        shared = self._shared(context, parameters)
        warnings: list[InputWarning] = []
        sequences: list[Sequence] = []
        min_new_tokens = min(parameters.max_new_tokens, 1)
        for i, (_, encoded) in enumerate(prompts):
            prompt = encoded.ids
            available = self._available(context.adapter, len(prompt), max_tokens, i, min_new_tokens)
            max_new_tokens = min(parameters.max_new_tokens, available)
            top = parameters.prompt_logprobs
            prompt_logprobs = None if top is None else PromptLogprobs(prompt, top)
            if max_new_tokens < parameters.max_new_tokens:
                wanted = parameters.max_new_tokens
                why = f"max_new_tokens is {wanted}, but after input {i} there is room for {available} tokens"
                warnings.append(InputWarning(i, "max_new_tokens", why))
            for choice in range(parameters.n):
                params = replace(shared.params, max_new_tokens=max_new_tokens, seed=parameters.seed_of(choice))
                sequences.append(
                    Sequence(
                        context.adapter,
                        prompt,
                        params,
                        index=len(sequences),
                        constraint=None if shared.grammar is None else shared.grammar.copy(),
                        decoder=self._decoder(parameters),
                        prompt_logprobs=prompt_logprobs,
                    )
                )
        request = Request(
            context.task,
            sequences,
            tenant=context.tenant,
            digest=context.digest,
            samples_per_prompt=parameters.n,
            priority=context.priority,
            listener=context.listener,
            prompts=prompts,
        )
        return request, warnings

    def answers(self, request: Request, parameters: GenerateParameters) -> list[Answer]:
        """One answer for each prompt, with its other completions under `choices`."""
        tokenizer = self.backbone.tokenizer
        texts = [_answer(sequence, parameters, tokenizer) for sequence in request.sequences]
        if parameters.n == 1:
            return texts
        groups = [texts[i : i + parameters.n] for i in range(0, len(texts), parameters.n)]
        return [group[0] | {"choices": group} for group in groups]

    # ---- parts of a sequence

    def _decoder(self, parameters: GenerateParameters) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(
            self.backbone.tokenizer,
            parameters.stop,
            keep_stop=parameters.include_stop,
            stop_after=parameters.min_tokens,
            skip_special=parameters.skip_special_tokens,
        )

    def _shared(self, context: GenerationContext, parameters: GenerateParameters) -> _Shared:
        """With `ignore_eos` only the request's own tokens end a text."""
        own = frozenset() if parameters.ignore_eos else self.backbone.eos_token_ids | context.stop_token_ids
        stops = frozenset(parameters.stop_token_ids)
        allowed = None
        if parameters.allowed_token_ids is not None:
            allowed = torch.zeros(self.vocabulary, dtype=torch.bool)
            allowed[parameters.allowed_token_ids] = True
        params = SamplingParams(
            temperature=parameters.temperature,
            top_k=parameters.top_k,
            top_p=parameters.top_p,
            min_p=parameters.min_p,
            repetition_penalty=parameters.repetition_penalty,
            presence_penalty=parameters.presence_penalty,
            frequency_penalty=parameters.frequency_penalty,
            logit_bias=parameters.biases,
            logprobs=parameters.logprobs,
            bad_words=self._bad_words(parameters.bad_words),
            min_tokens=parameters.min_tokens,
            eos_token_ids=own | stops,
            kept_eos_token_ids=stops - own if parameters.include_stop else frozenset(),
            allowed_tokens=allowed,
        )
        return _Shared(params, grammar_of(parameters, self._all_grammars))

    def _bad_words(self, words: Many[str]) -> BadWords | None:
        """Each word's tokens at the beginning of a text, and after a space."""
        if not words:
            return None
        tokenizer = self.backbone.tokenizer
        sequences = [
            tokenizer.encode_bare(text, _LONGEST_WORD).ids
            for word in words
            for text in (word.lstrip(), f" {word.lstrip()}")
        ]
        return BadWords(ids for ids in sequences if ids)

    def _available(
        self, adapter: BoundAdapter, prompt_tokens: int, max_tokens: int, index: int, min_new_tokens: int
    ) -> int:
        """The number of tokens that may follow a prompt. Raises InputTooLong for fewer than `min_new_tokens`."""
        rows = self._capacity(adapter)
        available = min(max_tokens, rows) - prompt_tokens
        if available < min_new_tokens:
            why = f"the backbone takes {max_tokens}" if max_tokens <= rows else f"the cache for generation holds {rows}"
            more = ", and at least one is written" if min_new_tokens else ""
            raise InputTooLong(f"input {index} has {prompt_tokens} tokens; {why}{more}", param=f"inputs.{index}")
        return available

    def _all_grammars(self) -> Grammars:
        if self._grammars is None:
            end = min(self.backbone.eos_token_ids, default=None)
            self._grammars = Grammars(self.backbone.tokenizer, self.vocabulary, end)
        return self._grammars

    def _check(self, parameters: GenerateParameters) -> None:
        named = {
            "logit_bias": parameters.biases,
            "stop_token_ids": parameters.stop_token_ids,
            "allowed_token_ids": parameters.allowed_token_ids or (),
        }
        for name, tokens in named.items():
            unknown = next((token for token in tokens if token >= self.vocabulary), None)
            if unknown is not None:
                raise InvalidRequest(
                    f"{name} names the token {unknown}; the backbone has 0 to {self.vocabulary - 1}", param=name
                )


def sampling_of(sequence: Sequence) -> SamplingParams:
    """The parameters of a sequence that generates."""
    assert sequence.sampling is not None
    return sequence.sampling


def text_of(sequence: Sequence) -> TextDecoder:
    """The text of a sequence that generates."""
    assert sequence.decoder is not None
    return sequence.decoder


def prompt_logprobs_of(sequence: Sequence) -> PromptLogprobs | None:
    """The prompt's own logprobs, where requested."""
    assert sequence.prompt_logprobs is None or isinstance(sequence.prompt_logprobs, PromptLogprobs)
    return sequence.prompt_logprobs


def rendering_cost_of_texts(request: Request) -> int:
    """Roughly how many values are processed to render generated texts; see `Kind.rendering_cost`."""
    cost = 0
    for sequence in request.sequences:
        top = sampling_of(sequence).logprobs
        cost += len(sequence.emitted_tokens) * (1 if top is None else _TOKEN_COST * (2 + top))
        if sequence.prompt_logprobs is not None:
            cost += len(sequence.prompt) * _TOKEN_COST
    return cost


def token_logprobs(tokens: Many[SampledToken | PromptLogprob], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Each token with its logprob, and the likeliest tokens at its position."""
    return [
        {
            "token": one.token,
            "text": tokenizer.token_to_string(one.token),
            "logprob": finite(one.logprob),
            "top": [
                {"token": t, "text": tokenizer.token_to_string(t), "logprob": finite(value)} for t, value in one.top
            ],
        }
        for one in tokens
    ]


def finite(logprob: float | None) -> float | None:
    """A logprob as JSON, which has no infinity: like OpenAI's servers -9999 for a probability of 0."""
    return None if logprob is None else max(logprob, _LOGPROB_OF_ZERO)


def _prompt_logprobs(logprobs: PromptLogprobs, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The prompt's tokens, the first without a value."""
    entries: list[dict[str, Any]] = []
    for token, one in zip(logprobs.prompt, logprobs.scores, strict=True):
        if one is None:
            entries.append(
                {"token": token, "text": tokenizer.token_to_string(token), "logprob": None, "rank": None, "top": []}
            )
        else:
            entries += [entry | {"rank": one.rank} for entry in token_logprobs([one], tokenizer)]
    return entries


def _answer(sequence: Sequence, parameters: GenerateParameters, tokenizer: Tokenizer) -> Answer:
    answer: Answer = {
        "text": text_of(sequence).text,
        "finish_reason": sequence.finish_reason,
        "tokens": [sampled.token for sampled in sequence.emitted_tokens],
    }
    if parameters.logprobs is not None:
        answer["logprobs"] = token_logprobs(sequence.emitted_tokens, tokenizer)
    if (logprobs := prompt_logprobs_of(sequence)) is not None:
        answer["prompt_logprobs"] = _prompt_logprobs(logprobs, tokenizer)
    return answer

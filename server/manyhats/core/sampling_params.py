"""Sampling parameters of one sequence: how its tokens are sampled, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class BadWords:
    """Token sequences, each of at least one token, that must not appear in the output."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._last: dict[tuple[int, ...], set[int]] = {}  # last tokens, by the tokens before them
        for word in words:
            self._last.setdefault(tuple(word[:-1]), set()).add(word[-1])
        self._lengths = sorted({len(before) for before in self._last})

    def completing(self, output: Sequence[int]) -> list[int]:
        """The tokens that would complete one of these sequences if they followed `output`."""
        tokens: set[int] = set()
        for length in self._lengths:
            if length <= len(output):
                tokens |= self._last.get(tuple(output[len(output) - length :]), set())
        return list(tokens)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. `max_new_tokens` 0: only the prompt is computed. `temperature` 0: greedy. `seed` None: a
    random seed.

    `presence_penalty` and `frequency_penalty` are subtracted from the logits of tokens of the output;
    `repetition_penalty` divides positive and multiplies negative logits of tokens of the prompt and the output (Keskar
    et al. 2019, section 4.1). `logprobs`: None, or how many of the likeliest tokens are returned with each token.
    `bad_words`: token sequences that must not appear. `min_tokens`: no end token is sampled before there are so many
    tokens. `eos_token_ids`: tokens that end the output; they are not part of it, but for `kept_eos_token_ids`.
    `allowed_tokens`: (vocabulary,) bool, on the host: the only tokens that may be sampled.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    bad_words: BadWords | None = None
    min_tokens: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    kept_eos_token_ids: frozenset[int] = frozenset()
    allowed_tokens: Tensor | None = None

    @property
    def looks_back(self) -> bool:
        """Whether sampling depends on the tokens of the output so far."""
        penalties = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalties or self.bad_words is not None or self.min_tokens > 0

    @property
    def truncated(self) -> bool:
        """Whether top-k, top-p or min-p exclude some tokens."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class SampledToken(NamedTuple):
    """A sampled token. `logprob`: the natural logarithm of its probability before any parameter changed the logits, and
    `top`: the likeliest tokens with theirs; both only where they were requested."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]

"""How the tokens of one sequence are chosen, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class BadWords:
    """Sequences of tokens that a text must not have, each of at least one token."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._last: dict[tuple[int, ...], set[int]] = {}  # by the tokens before the last one
        for word in words:
            self._last.setdefault(tuple(word[:-1]), set()).add(word[-1])
        self._lengths = sorted({len(before) for before in self._last})

    def completing(self, output: Sequence[int]) -> list[int]:
        """Tokens that would complete one of them after the tokens `output`."""
        tokens: set[int] = set()
        for length in self._lengths:
            if length <= len(output):
                tokens |= self._last.get(tuple(output[len(output) - length :]), set())
        return list(tokens)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """`max_new_tokens` 0: the prompt is read alone. `temperature` 0: the likeliest token. `seed` None: another text
    each time.

    `presence_penalty` and `frequency_penalty` are taken off the logits of tokens of the output; `repetition_penalty`
    divides positive and multiplies negative logits of tokens of the prompt too (Keskar et al. 2019, section 4.1).
    `logprobs`: None, or how many of the likeliest tokens are told with each token. `bad_words`: sequences of tokens
    that never come. `min_tokens`: as long as there are fewer, no token is chosen that ends the text.
    `eos_token_ids`: tokens that end the text, and are no part of it but for `kept_eos_token_ids`. `allowed_tokens`:
    (vocabulary,) bool, on the host: the tokens that the text may have.
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
        """Whether the tokens of the output so far matter."""
        penalties = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalties or self.bad_words is not None or self.min_tokens > 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class SampledToken(NamedTuple):
    """A token, the logarithm of its probability before any setting acted, and the likeliest ones' where asked for."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]

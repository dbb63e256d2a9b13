"""The sampler under its old names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from manyhats.core.sampling_params import BadWords, SampledToken, SamplingParams
from manyhats.engine.sampler import NO_TOKEN, SamplingInput, sample

__all__ = ["NO_TOKEN", "BadWords", "Chosen", "Draw", "Sampling", "choose"]

Chosen = SampledToken


@dataclass(frozen=True, slots=True)
class Sampling:
    """See `SamplingParams`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    bad_words: BadWords | None = None
    min_tokens: int = 0

    def params(self, ends: frozenset[int] = frozenset(), allowed: Tensor | None = None) -> SamplingParams:
        """The same under today's names."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition,
            presence_penalty=self.presence,
            frequency_penalty=self.frequency,
            logit_bias=self.bias,
            seed=self.seed,
            logprobs=self.logprobs,
            bad_words=self.bad_words,
            min_tokens=self.min_tokens,
            eos_token_ids=ends,
            allowed_tokens=allowed,
        )


@dataclass(slots=True)
class Draw:
    """See `SamplingInput`."""

    sampling: Sampling
    random: np.random.Generator | None
    seen: Sequence[int]
    written: Sequence[int]
    allowed: Tensor | None = None
    ends: frozenset[int] = frozenset()


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Chosen]:
    """See `sample`."""
    inputs = [SamplingInput(d.sampling.params(d.ends), d.random, d.seen, d.written, d.allowed) for d in draws]
    return sample(logits, inputs).tokens

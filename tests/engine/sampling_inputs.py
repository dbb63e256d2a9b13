"""Random sampling inputs, with every parameter."""

from __future__ import annotations

import random

import torch
from manyhats.core.sampling_params import BadWords, SamplingParams
from manyhats.engine.sampler import SamplingInput


class Fixed:
    """A random number generator that always returns one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def different(rows: int, vocabulary: int, source: random.Random) -> torch.Tensor:
    """Logits without equal values in a row, because which of equal tokens is likelier is not defined."""
    generator = torch.Generator().manual_seed(source.randrange(1 << 30))
    ranks = torch.stack([torch.randperm(vocabulary, generator=generator) for _ in range(rows)])
    shares = (ranks + 0.5) / vocabulary
    return (torch.special.ndtri(shares.double()) * source.choice([0.3, 1, 3, 8])).float()


def any_input(vocabulary: int, source: random.Random) -> SamplingInput:
    """A row with random values of all parameters, and a bool constraint."""

    def tokens(count: int) -> list[int]:
        return [source.randrange(vocabulary) for _ in range(count)]

    one = source.choice
    output = tokens(one([0, 1, 5, 30]))
    words = [[*output[-1:], *tokens(1)], tokens(1), tokens(2)]
    masks: list[torch.Tensor | None] = []
    for _ in range(2):
        mask = torch.zeros(vocabulary, dtype=torch.bool)
        mask[tokens(one([0, 5, vocabulary // 2, vocabulary]))] = True
        masks.append(mask if source.random() < 0.3 else None)
    params = SamplingParams(
        temperature=one([0.0, 0.0, 0.2, 0.7, 1.0, 1.7, 3.0]),
        top_k=one([0, 0, 1, 5, 63, 64, 255, 256, 300, 5000]),
        top_p=one([1.0, 1.0, 0.95, 0.9, 0.5, 0.05, 0.9999, 0.0]),
        min_p=one([0.0, 0.0, 0.02, 0.3, 1e-4]),
        repetition_penalty=one([1.0, 1.0, 1.3, 0.7]),
        presence_penalty=one([0.0, 0.0, 1.5, -1.0]),
        frequency_penalty=one([0.0, 0.0, 0.8]),
        logit_bias={token: source.uniform(-20, 20) for token in tokens(one([0, 0, 3]))},
        logprobs=one([None, None, 0, 3, 20]),
        bad_words=one([None, BadWords(words)]),
        min_tokens=one([0, 0, 3, 50]),
        eos_token_ids=frozenset(tokens(3)),
        allowed_tokens=masks[0],
    )
    at = Fixed(source.random())
    return SamplingInput(params, at, tokens(source.randint(1, 40)), output, masks[1])  # type: ignore[arg-type]

"""The next tokens of sequences, each by its own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.engine.sampling import Draw, Sampling, choose


class SamplingInput(NamedTuple):
    """One row to sample for."""

    params: SamplingParams
    random: np.random.Generator | None
    prompt: Sequence[int]
    output: Sequence[int]
    constraint: Tensor | None = None


class SamplerOutput(NamedTuple):
    """For each row its token, and whether its logits were finite numbers."""

    tokens: list[SampledToken]
    finite: list[bool]


def sample(logits: Tensor, inputs: Sequence[SamplingInput]) -> SamplerOutput:
    """One token for each row of `logits`, (rows, vocabulary), which are changed."""
    finite: list[bool] = torch.isfinite(logits.amax(-1)).tolist()
    chosen = choose(logits, [_draw(one, logits.device) for one in inputs])
    return SamplerOutput([SampledToken(*one) for one in chosen], finite)


def _draw(one: SamplingInput, device: torch.device) -> Draw:
    p = one.params
    masks = [mask for mask in (p.allowed_tokens, one.constraint) if mask is not None]
    sampling = Sampling(
        p.temperature,
        p.top_k,
        p.top_p,
        p.min_p,
        p.repetition_penalty,
        p.presence_penalty,
        p.frequency_penalty,
        p.logit_bias,
        p.seed,
        p.logprobs,
        p.bad_words,  # type: ignore[arg-type]
        p.min_tokens,
    )
    allowed = torch.stack(masks).all(0).to(device) if masks else None
    return Draw(sampling, one.random, one.prompt, one.output, allowed, p.eos_token_ids)

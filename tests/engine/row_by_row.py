"""A simple sampler that computes one row at a time, to compare `engine.sampler` with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.engine.sampler import NO_TOKEN, SamplingInput
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

_CANDIDATES = 256


def sample_row_by_row(logits: Tensor, inputs: Sequence[SamplingInput]) -> list[SampledToken]:
    return [_sample(row.float().clone(), one) for row, one in zip(logits, inputs, strict=True)]


def _sample(row: Tensor, one: SamplingInput) -> SampledToken:
    p = one.params
    raw = torch.log_softmax(row, -1)
    _adjust(row, one)
    token = int(row.argmax())
    possible = not bool(torch.isneginf(row).all())
    if p.temperature > 0:
        assert one.random is not None
        at = torch.tensor(one.random.random(), dtype=torch.float64)
        if possible:
            scores = row / torch.tensor(p.temperature)
            weights = (scores - scores.amax()).exp()
            token = _sample_truncated(weights, p, at) if p.truncated else _first_above(weights.double().cumsum(-1), at)
    if not possible:
        return SampledToken(NO_TOKEN, None, ())
    if p.logprobs is None:
        return SampledToken(token, None, ())
    values, ids = raw.topk(min(p.logprobs, len(raw)))
    return SampledToken(token, float(raw[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def _adjust(row: Tensor, one: SamplingInput) -> None:
    p = one.params
    output = list(one.output)
    if p.repetition_penalty != 1:
        ids = torch.tensor([[*one.prompt, *output]])
        row.copy_(RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(ids, row[None])[0])
    if (p.presence_penalty or p.frequency_penalty) and output:
        tokens, counts = torch.unique(torch.tensor(output), return_counts=True)
        row[tokens] -= p.presence_penalty + p.frequency_penalty * counts
    if p.logit_bias:
        row[torch.tensor(list(p.logit_bias))] += torch.tensor(list(p.logit_bias.values()))
    forbidden = [] if p.bad_words is None else p.bad_words.completing(output)
    if len(output) < p.min_tokens:
        forbidden.extend(p.eos_token_ids)
    if forbidden:
        row[torch.tensor(forbidden)] = float("-inf")
    for mask in (one.constraint, p.allowed_tokens):
        if mask is not None:
            row.masked_fill_(~mask, float("-inf"))


def _first_above(sums: Tensor, at: Tensor) -> int:
    """The first index where the cumulated weights are above a share of their total."""
    return min(int(torch.searchsorted(sums, at * sums[-1], right=True)), len(sums) - 1)


def _sample_truncated(weights: Tensor, p: SamplingParams, at: Tensor) -> int:
    count = min(p.top_k or _CANDIDATES, len(weights))
    while True:
        values, ids = weights.topk(count)
        kept = values.double()
        sums = kept.cumsum(0)
        # top-p is a share of what top-k leaves
        total = sums[-1] if p.top_k else weights.sum(dtype=torch.float64)
        enough = p.top_k > 0 or count == len(weights)
        enough = enough or (p.top_p < 1 and bool(sums[-1] >= p.top_p * total))
        enough = enough or (p.min_p > 0 and bool(kept[-1] < p.min_p * kept[0]))
        if enough:
            break
        count = len(weights)
    keep = torch.ones_like(kept, dtype=torch.bool)
    if p.top_p < 1:
        keep &= sums - kept < p.top_p * total
    if p.min_p > 0:
        keep &= kept >= p.min_p * kept[0]
    keep[0] = True
    kept_weights = kept[: int(keep.sum())]  # the kept tokens come first, because the weights fall
    return int(ids[_first_above(kept_weights.cumsum(0), at)])

"""Samples tokens from logits: each row with its own parameters, all rows together.

The parameters of all rows are copied to the device in one transfer and the results back in one, so that neither kernel
launches nor host waits grow with the number of rows. Only where top-p or min-p of some row may keep more tokens than
the likeliest few that are looked at first, that row's whole vocabulary is sorted, and the host waits a second time.

transformers' logits processors take one setting for a whole batch; the results here are the same as theirs for each
row. Among equally likely tokens the one with the lower id comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.core.sampling_params import SampledToken
from manyhats.engine.sampling_layout import SamplingInput, SamplingLayout, Truncated

__all__ = ["NO_TOKEN", "SamplerOutput", "SamplingInput", "sample"]

NO_TOKEN = -1  # the token of a row whose constraints allow none, or whose logits are not finite
_MAX_SORTED_LOGITS = 1 << 22  # sorted at once: bounds the memory for sorting whole vocabularies
_EXCLUDED = -math.inf


class SamplerOutput(NamedTuple):
    """The token of each row, and whether its logits were finite; where they were not, the token is NO_TOKEN."""

    tokens: list[SampledToken]
    finite: list[bool]


def sample(logits: Tensor, inputs: Sequence[SamplingInput], staging: StagingBuffer | None = None) -> SamplerOutput:
    """Samples one token for each row of `logits` (rows, vocabulary), which are overwritten.

    The token of a row depends on its own logits and input only. A row whose constraints allow no token gets NO_TOKEN.
    `staging`: an empty buffer for the copy to the device; None: a new one is made.
    """
    if not inputs:
        return SamplerOutput([], [])
    if staging is None:
        staging = StagingBuffer(HostBuffers(logits.device))
    layout = layout_of(inputs, logits.shape[1], logits.device)
    if layout.arrays:
        layout.put_into(staging)
        staging.commit()
    return sample_staged(logits, layout, staging)


def layout_of(inputs: Sequence[SamplingInput], vocabulary: int, device: torch.device) -> SamplingLayout:
    """The parameters of some rows, of which one number at least is taken from each random source. The logits need not
    be known yet."""
    return SamplingLayout(inputs, vocabulary, np.float32 if _exact(device) == torch.float32 else np.float64)


def _exact(device: torch.device) -> torch.dtype:
    """The type in which weights are summed."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def sample_staged(logits: Tensor, layout: SamplingLayout, staging: StagingBuffer) -> SamplerOutput:
    """As `sample`, for a layout with rows that has been put into `staging`, which has been committed."""
    logits = logits.float().contiguous()
    exact = _exact(logits.device)
    unadjusted_best = logits.amax(-1) if layout.adjusted else None  # shows whether the logits are finite
    log_probs = None
    if layout.logprobs:
        log_probs = torch.log_softmax(_select_rows(logits, staging, "logprobs"), -1)
    if layout.adjusted:
        _adjust(logits, staging)
    best, tokens = logits.max(-1)

    samplers = [_TruncatedSampler(logits, part, staging) for part in layout.truncated]
    _sample_untruncated(logits, best, tokens, layout, samplers, staging, exact)
    for sampler in samplers:
        sampler.sample(tokens)
    host = _to_host(
        {
            "best": best,
            **({} if unadjusted_best is None else {"unadjusted_best": unadjusted_best}),
            **{
                f"insufficient {i}": sampler.insufficient
                for i, sampler in enumerate(samplers)
                if sampler.insufficient is not None
            },
            **_outputs(tokens, log_probs, layout, staging),
        }
    )
    insufficient = [
        int(host[f"insufficient {i}"].sum()) if sampler.insufficient is not None else 0
        for i, sampler in enumerate(samplers)
    ]
    if any(insufficient):
        for sampler, count in zip(samplers, insufficient, strict=True):
            sampler.sample_full(tokens, count)
        host |= _to_host(_outputs(tokens, log_probs, layout, staging, top=False))
    return _sampler_output(host, layout)


def _select_rows(values: Tensor, staging: StagingBuffer, name: str) -> Tensor:
    """A copy of the rows whose indices are staged under `name`; `values` itself where none are: all rows."""
    return values.index_select(0, staging[name]) if name in staging else values


def _adjust(logits: Tensor, staging: StagingBuffer) -> None:
    """Applies penalties, biases and token constraints in place. No list of indices has one twice."""
    flat = logits.view(-1)
    if "repeated" in staging:
        indices, factor = staging["repeated"], staging["repeated.amounts"]
        values = flat.gather(0, indices)
        flat.scatter_(0, indices, torch.where(values < 0, values * factor, values / factor))
    for name in ("penalty", "bias"):
        if name in staging:
            flat.scatter_add_(0, staging[name], staging[f"{name}.amounts"])
    if "forbidden" in staging:
        flat.index_fill_(0, staging["forbidden"], _EXCLUDED)
    if "masks" in staging:
        excluded = _unpack_masks(staging, logits.shape[1], logits.device)
        if "masked" in staging:
            rows = staging["masked"]
            logits.index_copy_(0, rows, logits.index_select(0, rows).masked_fill_(excluded, _EXCLUDED))
        else:
            logits.masked_fill_(excluded, _EXCLUDED)


def _unpack_masks(staging: StagingBuffer, vocabulary: int, device: torch.device) -> Tensor:
    """The staged bitmasks as (rows, vocabulary) bool. Only the bits, the lowest first, are copied to a device."""
    if _on_host(device):
        bits = np.unpackbits(staging.host("masks"), axis=1, count=vocabulary, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)
    packed = staging["masks"]
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    return packed[:, :, None].bitwise_right_shift(shifts).bitwise_and_(1).bool().flatten(1)[:, :vocabulary]


def _sample_untruncated(
    logits: Tensor,
    best: Tensor,
    tokens: Tensor,
    layout: SamplingLayout,
    samplers: Sequence[_TruncatedSampler],
    staging: StagingBuffer,
    exact: torch.dtype,
) -> None:
    """Samples the rows without top-k, top-p and min-p, into `tokens`. Also sums the weights of the whole vocabulary for
    the rows of `samplers` whose top-p is a share of that sum."""
    plain, shares = layout.plain, layout.shares
    if not plain and not shares:
        return
    numbers = staging["weighed.numbers"]
    temperatures = numbers[1].float()
    scores = _select_rows(logits, staging, "weighed")
    overwritten = scores is logits and samplers  # the samplers still need the logits
    scores = scores / temperatures[:, None] if overwritten else scores.div_(temperatures[:, None])
    weights = scores.sub_((_select_rows(best, staging, "weighed") / temperatures)[:, None]).exp_()
    if plain:
        sums = weights[:plain].cumsum(-1, dtype=exact)
        sampled = _first_above(sums, numbers[0, :plain] * sums[:, -1])
        _write_tokens(tokens, sampled.clamp_(max=logits.shape[1] - 1), staging, "weighed")
    if shares:
        samplers[layout.shared].put_totals(weights[plain:].sum(-1, dtype=exact))


def _write_tokens(tokens: Tensor, sampled: Tensor, staging: StagingBuffer, name: str) -> None:
    """Writes sampled tokens into the first of the rows whose indices are staged under `name`; see `_select_rows`."""
    if name in staging:
        tokens.index_copy_(0, staging[name][: len(sampled)], sampled)
    else:
        tokens[: len(sampled)] = sampled


def _first_above(sums: Tensor, at: Tensor) -> Tensor:
    """In each row the first index where the cumulated sum is above the row's value."""
    return torch.searchsorted(sums, at[:, None], right=True)[:, 0]


class _TruncatedSampler:
    """Samples the rows of `part`: with top-k, top-p or min-p, from their `part.count` likeliest tokens first."""

    def __init__(self, logits: Tensor, part: Truncated, staging: StagingBuffer) -> None:
        self._logits, self._part, self._staging = logits, part, staging
        self._numbers = staging[f"{part.name}.numbers"]
        self._totals: Tensor | None = None
        self.insufficient: Tensor | None = None  # (rows,) bool: for which rows so many are not enough

    def put_totals(self, totals: Tensor) -> None:
        """Sets the sums of the whole vocabulary's weights, for the rows `part.shares`."""
        if len(totals) < len(self._part.rows):
            whole = torch.full((len(self._part.rows),), math.inf, dtype=totals.dtype, device=totals.device)
            totals = whole.index_copy_(0, self._staging[f"{self._part.name}.shares"], totals)
        self._totals = totals

    def sample(self, tokens: Tensor) -> None:
        """Samples all rows, into `tokens`."""
        if self._part.count == self._logits.shape[1]:
            all_rows = torch.arange(len(tokens), device=tokens.device)
            self._sample_sorted(
                tokens, _select_rows(all_rows, self._staging, self._part.name), self._numbers, self._totals
            )
            return
        logits = _select_rows(self._logits, self._staging, self._part.name)
        values, ids = _top(logits, self._part.count)
        sampled, last = _sample_truncated(values, ids, self._part, self._numbers, self._totals)
        _write_tokens(tokens, sampled, self._staging, self._part.name)
        # Where the last kept token is likelier than the last of these, no token after these can be kept.
        self.insufficient = last <= values[:, -1]

    def sample_full(self, tokens: Tensor, count: int) -> None:
        """Samples the `count` insufficient rows again, from the whole vocabulary."""
        if not count or self.insufficient is None:
            return
        order = self.insufficient.to(torch.uint8).argsort(descending=True, stable=True)[:count]
        rows = self._staging[name].index_select(0, order) if (name := self._part.name) in self._staging else order
        totals = None if self._totals is None else self._totals.index_select(0, order)
        self._sample_sorted(tokens, rows, self._numbers.index_select(1, order), totals)

    def _sample_sorted(self, tokens: Tensor, rows: Tensor, numbers: Tensor, totals: Tensor | None) -> None:
        step = max(_MAX_SORTED_LOGITS // self._logits.shape[1], 1)
        for i in range(0, len(rows), step):
            some = slice(i, i + step)
            values, ids = _top(self._logits.index_select(0, rows[some]), self._logits.shape[1])
            whole = None if totals is None else totals[some]
            sampled, _ = _sample_truncated(values, ids, self._part, numbers[:, some], whole)
            tokens.index_copy_(0, rows[some], sampled)


def _top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest logits of each row and their token ids, in falling order; of equal ones the lower first."""
    if count < logits.shape[1]:
        if _on_host(logits.device):
            values, ids = logits.topk(count)
            falling = values.numpy()
            ties = (falling[:, 1:] == falling[:, :-1]).any()  # topk leaves the order of equal values open
            return _sorted_on_host(logits, values, ids) if ties else (values, ids)
        ids = logits.topk(count, sorted=False).indices.sort(dim=-1).values
        values, order = logits.gather(1, ids).sort(dim=-1, descending=True, stable=True)
        return values, ids.gather(1, order)
    if _on_host(logits.device):
        return _sorted_on_host(logits, logits, torch.arange(count))
    return logits.sort(dim=-1, descending=True, stable=True)


def _on_host(device: torch.device) -> bool:
    """Whether numpy can use the tensors without a copy."""
    return device.type == "cpu"


def _sorted_on_host(logits: Tensor, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts by falling value, then by rising id. numpy sorts integers many times as fast as torch sorts stably, so that
    each key has the value's bits above the id's."""
    bits = (values.numpy() + np.float32(0)).view(np.int32)  # adding 0 turns -0 into 0
    keys = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits).astype(np.int64)  # rises as the value falls
    keys <<= 32
    keys |= ids.numpy()
    keys.sort(axis=-1)
    keys &= 0xFFFFFFFF
    order = torch.from_numpy(keys)
    return logits.gather(1, order), order


def _sample_truncated(
    values: Tensor, ids: Tensor, part: Truncated, numbers: Tensor, totals: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Applies top-k, top-p and min-p in this order, as transformers' warpers do, and samples from what they keep.

    `values`, `ids`: (rows, candidates), logits in falling order and their token ids. `numbers`: see `Truncated`.
    `totals`: (rows,), the sum of the whole vocabulary's weights where top-p is a share of it; else infinite. Returns
    for each row the sampled token and the lowest logit that was kept.
    """
    scores = values / numbers[1].float()[:, None]
    weights = (scores - scores[:, :1]).exp_().to(numbers.dtype)
    sums = weights.cumsum(-1)
    keep = weights >= numbers[4][:, None]  # the likeliest token has the weight 1
    shares = totals
    if part.limited:
        limits = numbers[2].clamp(max=values.shape[1])[:, None]
        keep &= torch.arange(values.shape[1], device=values.device) < limits
        if part.nucleus:
            kept = sums.gather(1, limits.long() - 1)[:, 0]
            shares = kept if totals is None else torch.where(totals < math.inf, totals, kept)
    if part.nucleus:
        assert shares is not None, "top-p is a share of what top-k keeps, or of the whole vocabulary"
        keep &= sums - weights < (numbers[3] * shares)[:, None]
    last = keep.sum(-1, keepdim=True).clamp_(min=1) - 1  # the kept tokens come first, because the weights fall
    thresholds = numbers[0][:, None] * sums.gather(1, last)
    indices = torch.searchsorted(sums, thresholds, right=True).minimum(last)
    return ids.gather(1, indices)[:, 0], values.gather(1, last)[:, 0]


def _outputs(
    tokens: Tensor, log_probs: Tensor | None, layout: SamplingLayout, staging: StagingBuffer, top: bool = True
) -> dict[str, Tensor]:
    outputs = {"tokens": tokens}
    if log_probs is not None:
        outputs["logprob"] = log_probs.gather(1, _select_rows(tokens, staging, "logprobs")[:, None])
        if top and layout.top:
            outputs["top"], outputs["top.ids"] = _top(log_probs, layout.top)
    return outputs


def _to_host(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies tensors of float32 and of integers below 2**31 to the host, in one transfer."""
    floats = {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    words = [
        tensor.reshape(-1).view(torch.int32) if name in floats else tensor.reshape(-1).int()
        for name, tensor in tensors.items()
    ]
    host = torch.cat(words).cpu().numpy()
    arrays = {}
    for name, tensor in tensors.items():
        part, host = host[: tensor.numel()].reshape(tensor.shape), host[tensor.numel() :]
        arrays[name] = part.view(np.float32) if name in floats else part
    return arrays


def _sampler_output(host: dict[str, NDArray[Any]], layout: SamplingLayout) -> SamplerOutput:
    finite: NDArray[np.bool_] = np.isfinite(host.get("unadjusted_best", host["best"]))
    best = host["best"]
    impossible = np.isneginf(best)
    finite &= impossible | np.isfinite(best)
    tokens = np.where(finite & ~impossible, host["tokens"], NO_TOKEN).tolist()
    sampled = [SampledToken(token, None, ()) for token in tokens]
    for i, row in enumerate(layout.logprobs):
        if tokens[row] == NO_TOKEN:
            continue
        count = layout.tops[i]
        top: tuple[tuple[int, float], ...] = ()
        if count:
            top = tuple(zip(host["top.ids"][i, :count].tolist(), host["top"][i, :count].tolist(), strict=True))
        sampled[row] = SampledToken(tokens[row], float(host["logprob"][i, 0]), top)
    return SamplerOutput(sampled, finite.tolist())

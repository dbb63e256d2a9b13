"""From logits to tokens: every row with its own settings, all rows together.

What the rows ask for is gathered on the host and copied to the device in one piece, and what came of it is copied back
in one piece, so that neither launches nor waits grow with the rows. Only where the likeliest few tokens of some row do
not hold all that it may draw, its whole vocabulary is sorted, and the host waits a second time.

transformers' processors take one setting for a whole batch; here the results are the same, row by row. Among tokens
that are equally likely, the one with the lower number comes first.
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

NO_TOKEN = -1  # in place of a token, where the constraints of a sequence leave none, or its logits are not finite
_SORTED_AT_ONCE = 1 << 22  # logits: bounds the memory for sorting whole vocabularies
_NO_LOGIT = -math.inf


class SamplerOutput(NamedTuple):
    """For each row its token, and whether its logits were finite numbers: without that, the token is NO_TOKEN."""

    tokens: list[SampledToken]
    finite: list[bool]


def sample(logits: Tensor, inputs: Sequence[SamplingInput], staging: StagingBuffer | None = None) -> SamplerOutput:
    """One token for each row of `logits`, (rows, vocabulary), which are changed.

    What is chosen for a row depends on its own logits and input alone. A row whose constraints leave no token gets
    NO_TOKEN. `staging`: an empty buffer for the copy to the device, where the caller keeps host memory for it.
    """
    if not inputs:
        return SamplerOutput([], [])
    logits = logits.float().contiguous()
    device = logits.device
    exact = torch.float32 if device.type == "mps" else torch.float64  # which has no wider numbers
    if staging is None:
        staging = StagingBuffer(HostBuffers(device))
    layout = SamplingLayout(inputs, logits.shape[1], staging, np.float32 if exact == torch.float32 else np.float64)
    if layout.staged:
        staging.commit()

    before = logits.amax(-1) if layout.adjusted else None  # tells whether the logits are finite
    log_probs = None
    if layout.logprobs:
        log_probs = torch.log_softmax(_rows(logits, staging, "logprobs"), -1)
    if layout.adjusted:
        _adjust(logits, staging)
    best, tokens = logits.max(-1)

    draws = [_Draw(logits, part, staging) for part in layout.truncated]
    _draw_plain(logits, best, tokens, layout, draws, staging, exact)
    for draw in draws:
        draw.sample(tokens)
    host = _to_host(
        {
            "best": best,
            **({} if before is None else {"before": before}),
            **{f"lacking {i}": draw.lacking for i, draw in enumerate(draws) if draw.lacking is not None},
            **_told(tokens, log_probs, layout, staging),
        }
    )
    lacking = [int(host[f"lacking {i}"].sum()) if draw.lacking is not None else 0 for i, draw in enumerate(draws)]
    if any(lacking):
        for draw, count in zip(draws, lacking, strict=True):
            draw.sample_whole(tokens, count)
        host |= _to_host(_told(tokens, log_probs, layout, staging, top=False))
    return _output(host, layout, len(inputs))


def _rows(values: Tensor, staging: StagingBuffer, name: str) -> Tensor:
    """The rows that are staged under a name: a copy. The values themselves where no rows are, which means all."""
    return values.index_select(0, staging[name]) if name in staging else values


def _adjust(logits: Tensor, staging: StagingBuffer) -> None:
    """Penalties, biases and what is not allowed; in place. Each index stands once in its list."""
    flat = logits.view(-1)
    if "repeated" in staging:
        where, factor = staging["repeated"], staging["repeated.amounts"]
        found = flat.gather(0, where)
        flat.scatter_(0, where, torch.where(found < 0, found * factor, found / factor))
    for name in ("penalty", "bias"):
        if name in staging:
            flat.scatter_add_(0, staging[name], staging[f"{name}.amounts"])
    if "forbidden" in staging:
        flat.index_fill_(0, staging["forbidden"], _NO_LOGIT)
    if "masks" in staging:
        left_out = _unpacked(staging, logits.shape[1], logits.device)
        if "masked" in staging:
            rows = staging["masked"]
            logits.index_copy_(0, rows, logits.index_select(0, rows).masked_fill_(left_out, _NO_LOGIT))
        else:
            logits.masked_fill_(left_out, _NO_LOGIT)


def _unpacked(staging: StagingBuffer, vocabulary: int, device: torch.device) -> Tensor:
    """(rows, vocabulary) bool from the bits of "masks", the lowest first: only the bits are copied to a device."""
    if _on_host(device):
        bits = np.unpackbits(staging.host("masks"), axis=1, count=vocabulary, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)
    packed = staging["masks"]
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    return packed[:, :, None].bitwise_right_shift(shifts).bitwise_and_(1).bool().flatten(1)[:, :vocabulary]


def _draw_plain(
    logits: Tensor,
    best: Tensor,
    tokens: Tensor,
    layout: SamplingLayout,
    draws: Sequence[_Draw],
    staging: StagingBuffer,
    exact: torch.dtype,
) -> None:
    """Draws for the rows that may have any token, into `tokens`; and the sums of all weights for those of `draws`
    whose top-p is a share of them."""
    plain, shares = layout.plain, layout.shares
    if not plain and not shares:
        return
    numbers = staging["weighed.numbers"]
    temperatures = numbers[1].float()
    scores = _rows(logits, staging, "weighed")
    overwritten = scores is logits and draws  # they are needed again
    scores = scores / temperatures[:, None] if overwritten else scores.div_(temperatures[:, None])
    weights = scores.sub_((_rows(best, staging, "weighed") / temperatures)[:, None]).exp_()
    if plain:
        sums = weights[:plain].cumsum(-1, dtype=exact)
        chosen = _places(sums, numbers[0, :plain] * sums[:, -1])
        _put(tokens, chosen.clamp_(max=logits.shape[1] - 1), staging, "weighed")
    if shares:
        draws[layout.shared].put_totals(weights[plain:].sum(-1, dtype=exact))


def _put(tokens: Tensor, chosen: Tensor, staging: StagingBuffer, name: str) -> None:
    """Into the rows that are staged under a name, as many as there are; see `_rows`."""
    if name in staging:
        tokens.index_copy_(0, staging[name][: len(chosen)], chosen)
    else:
        tokens[: len(chosen)] = chosen  # the first rows, in their order


def _places(sums: Tensor, at: Tensor) -> Tensor:
    """In each row the first place where the sums pass a number."""
    return torch.searchsorted(sums, at[:, None], right=True)[:, 0]


class _Draw:
    """Rows that are truncated to their likeliest tokens, of which `part.count` are looked at first."""

    def __init__(self, logits: Tensor, part: Truncated, staging: StagingBuffer) -> None:
        self._logits, self._part, self._staging = logits, part, staging
        self._numbers = staging[f"{part.name}.numbers"]
        self._totals: Tensor | None = None
        self.lacking: Tensor | None = None  # (rows,) bool: for which so many are not enough

    def put_totals(self, totals: Tensor) -> None:
        """The sums of all weights of `part.shares`."""
        if len(totals) < len(self._part.rows):
            whole = torch.full((len(self._part.rows),), math.inf, dtype=totals.dtype, device=totals.device)
            totals = whole.index_copy_(0, self._staging[f"{self._part.name}.shares"], totals)
        self._totals = totals

    def sample(self, tokens: Tensor) -> None:
        """Draws for all rows, into `tokens`."""
        if self._part.count == self._logits.shape[1]:
            every = torch.arange(len(tokens), device=tokens.device)
            self._sort(tokens, _rows(every, self._staging, self._part.name), self._numbers, self._totals)
            return
        logits = _rows(self._logits, self._staging, self._part.name)
        values, ids = _likeliest(logits, self._part.count)
        chosen, last = _draw_truncated(values, ids, self._part, self._numbers, self._totals)
        _put(tokens, chosen, self._staging, self._part.name)
        # Where the last one that may be drawn is likelier than the last one here, none behind these may be drawn.
        self.lacking = last <= values[:, -1]

    def sample_whole(self, tokens: Tensor, count: int) -> None:
        """Draws again, with the whole vocabulary, for the `count` rows for which the first ones were not enough."""
        if not count or self.lacking is None:
            return
        order = self.lacking.to(torch.uint8).argsort(descending=True, stable=True)[:count]
        rows = self._staging[name].index_select(0, order) if (name := self._part.name) in self._staging else order
        totals = None if self._totals is None else self._totals.index_select(0, order)
        self._sort(tokens, rows, self._numbers.index_select(1, order), totals)

    def _sort(self, tokens: Tensor, rows: Tensor, numbers: Tensor, totals: Tensor | None) -> None:
        step = max(_SORTED_AT_ONCE // self._logits.shape[1], 1)
        for i in range(0, len(rows), step):
            some = slice(i, i + step)
            values, ids = _likeliest(self._logits.index_select(0, rows[some]), self._logits.shape[1])
            whole = None if totals is None else totals[some]
            chosen, _ = _draw_truncated(values, ids, self._part, numbers[:, some], whole)
            tokens.index_copy_(0, rows[some], chosen)


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest values of each row and where they stand, the highest first and of equal ones the first in the row."""
    if count < logits.shape[1]:
        if _on_host(logits.device):
            values, ids = logits.topk(count)
            falling = values.numpy()
            equal = (falling[:, 1:] == falling[:, :-1]).any()  # then they stand in any order
            return _sorted_on_host(logits, values, ids) if equal else (values, ids)
        ids = logits.topk(count, sorted=False).indices.sort(dim=-1).values
        values, order = logits.gather(1, ids).sort(dim=-1, descending=True, stable=True)
        return values, ids.gather(1, order)
    if _on_host(logits.device):
        return _sorted_on_host(logits, logits, torch.arange(count))
    return logits.sort(dim=-1, descending=True, stable=True)


def _on_host(device: torch.device) -> bool:
    """Whether numpy can take the tensors as they are."""
    return device.type == "cpu"


def _sorted_on_host(logits: Tensor, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """numpy sorts whole numbers many times as fast as torch sorts pairs: the value's bits, and below them the place."""
    bits = (values.numpy() + np.float32(0)).view(np.int32)  # no zero is negative
    keys = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits).astype(np.int64)  # rise where the values fall
    keys <<= 32
    keys |= ids.numpy()
    keys.sort(axis=-1)
    keys &= 0xFFFFFFFF
    order = torch.from_numpy(keys)
    return logits.gather(1, order), order


def _draw_truncated(
    values: Tensor, ids: Tensor, part: Truncated, numbers: Tensor, totals: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As transformers' warpers do, one after another: the k likeliest, of these the fewest that have p together, of
    these the ones that have min_p times the likeliest's share.

    `values`, `ids`: falling logits and their tokens. `numbers`: see `Truncated`. `totals`: the sum of the whole
    vocabulary's weights, where top-p is a share of it; else infinite. Returns the tokens and the last logits that may
    be drawn.
    """
    scores = values / numbers[1].float()[:, None]
    weights = (scores - scores[:, :1]).exp_().to(numbers.dtype)
    sums = weights.cumsum(-1)
    keep = weights >= numbers[4][:, None]  # the likeliest has the weight 1
    shares = totals
    if part.limited:
        limits = numbers[2].clamp(max=values.shape[1])[:, None]
        keep &= torch.arange(values.shape[1], device=values.device) < limits
        if part.nucleus:
            left = sums.gather(1, limits.long() - 1)[:, 0]
            shares = left if totals is None else torch.where(totals < math.inf, totals, left)
    if part.nucleus:
        assert shares is not None, "top-p is a share of what top-k leaves, or of everything"
        keep &= sums - weights < (numbers[3] * shares)[:, None]
    last = keep.sum(-1, keepdim=True).clamp_(min=1) - 1  # what is kept stands in front: the weights fall
    at = numbers[0][:, None] * sums.gather(1, last)
    places = torch.searchsorted(sums, at, right=True).minimum(last)
    return ids.gather(1, places)[:, 0], values.gather(1, last)[:, 0]


def _told(
    tokens: Tensor, log_probs: Tensor | None, layout: SamplingLayout, staging: StagingBuffer, top: bool = True
) -> dict[str, Tensor]:
    told = {"tokens": tokens}
    if log_probs is not None:
        told["logprob"] = log_probs.gather(1, _rows(tokens, staging, "logprobs")[:, None])
        if top and layout.top:
            told["top"], told["top.ids"] = _likeliest(log_probs, layout.top)
    return told


def _to_host(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Float32 and small whole numbers, in one copy."""
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


def _output(host: dict[str, NDArray[Any]], layout: SamplingLayout, count: int) -> SamplerOutput:
    finite: NDArray[np.bool_] = np.isfinite(host.get("before", host["best"]))
    best = host["best"]
    impossible = np.isneginf(best)
    finite &= impossible | np.isfinite(best)
    tokens = np.where(finite & ~impossible, host["tokens"], NO_TOKEN).tolist()
    sampled = [SampledToken(token, None, ()) for token in tokens]
    for place, row in enumerate(layout.logprobs):
        if tokens[row] == NO_TOKEN:
            continue
        asked = layout.tops[place]
        top: tuple[tuple[int, float], ...] = ()
        if asked:
            top = tuple(zip(host["top.ids"][place, :asked].tolist(), host["top"][place, :asked].tolist(), strict=True))
        sampled[row] = SampledToken(tokens[row], float(host["logprob"][place, 0]), top)
    return SamplerOutput(sampled, finite.tolist())

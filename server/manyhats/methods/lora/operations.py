"""The operations of a LoRA at a linear layer and at an embedding, for serving and training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.kernels.base import LowRank, ScaleAdd, Weight
from manyhats.methods.base import SequenceSlices
from manyhats.methods.component import StateDict
from manyhats.methods.operations import AddGatedLowRank, AddLowRank, Operation, ScaleOutput

_SMALL = 256 << 10  # bytes of a pair


@dataclass(frozen=True, slots=True)
class LowRankLookup:
    """On an embedding: gain * (E[ids] + s A[:, ids]^T B^T)."""

    down: Tensor  # (vocabulary, r)
    up: Tensor  # (r, dim)
    gain: Tensor | None  # (dim,)

    def __call__(self, ids: Tensor, y: Tensor, slices: SequenceSlices) -> Tensor:
        out = y + F.embedding(ids, self.down) @ self.up
        return out if self.gain is None else out * self.gain


def low_rank_operations(
    pair: LowRank, gain: Tensor | None, offset: Tensor | None, gate: Weight | None
) -> list[Operation]:
    """y = gain * y + offset + gate(x) * (down x) up, each term only where given. gain, offset: (out,)."""
    found: list[Operation] = []
    if gain is not None or offset is not None:
        found.append(ScaleOutput(ScaleAdd(gain, offset)))
    found.append(AddLowRank(pair) if gate is None else AddGatedLowRank(pair, gate))
    return found


def small_pairs(
    tensors: Mapping[str, StateDict], scales: Mapping[str, float], dtype: torch.dtype
) -> dict[str, LowRank]:
    """The pairs of linear sites with nothing but a small A (r, in) and B (out, r), scaled in float32.

    Those of one shape are computed together, as the calls of torch take longer than their values.
    """
    by_shape: dict[Hashable, list[str]] = {}
    for site, leaves in tensors.items():
        if len(leaves) == 2 and "A" in leaves and "B" in leaves:
            down, up = leaves["A"], leaves["B"]
            if down.nbytes + up.nbytes <= _SMALL:
                by_shape.setdefault((down.shape, up.shape, down.dtype, up.dtype), []).append(site)
    pairs: dict[str, LowRank] = {}
    for sites in by_shape.values():
        downs = torch.stack([tensors[site]["A"] for site in sites]).float().to(dtype)
        ups = torch.stack([tensors[site]["B"] for site in sites]).float().transpose(1, 2)
        factors = torch.tensor([scales[site] for site in sites], device=ups.device)
        ups = (ups * factors[:, None, None]).to(dtype).contiguous()
        pairs |= dict(zip(sites, map(LowRank, downs.unbind(), ups.unbind()), strict=True))
    return pairs


def dora_gain(leaves: StateDict, weight: Tensor, scale: float, dora: str | None) -> Tensor | None:
    """DoRA's m / n (Liu et al. 2024, equation 5): n the norm of each output's row of the adapted weight (out, in).

    AdapterHub leaves the scale out of n.
    """
    if "magnitude" not in leaves:
        return None
    factor = scale if dora == "peft" else 1.0
    adapted = weight.float() + factor * (leaves["B"] @ leaves["A"])
    gain: Tensor = leaves["magnitude"] / torch.linalg.vector_norm(adapted, dim=1)
    return gain


def output_offset(
    leaves: StateDict, bias: Tensor | None, scale: float, gain: Tensor | None, dora: str | None
) -> Tensor | None:
    """The bias that is added after the gain: PEFT's DoRA does not scale the layer's bias, AdapterHub's does."""
    own = leaves.get("bias")
    offset: Tensor | None = None
    if gain is not None and dora == "peft" and bias is not None:
        offset = (1 - gain) * bias.float()
    if own is not None:
        change = own if bias is None else own - bias.float()
        offset = change if offset is None else offset + change
    if "bias_B" in leaves:
        more = scale * leaves["bias_B"]
        more = more if gain is None else more * gain
        offset = more if offset is None else offset + more
    return offset


def embedding_gain(leaves: StateDict, table: Tensor, scale: float) -> Tensor | None:
    """DoRA's m / n for a table (vocabulary, dim): the norm over the vocabulary of each dimension."""
    if "magnitude" not in leaves:
        return None
    adapted = table + scale * (leaves["B"] @ leaves["A"]).T
    gain: Tensor = leaves["magnitude"] / torch.linalg.vector_norm(adapted, dim=0)
    return gain

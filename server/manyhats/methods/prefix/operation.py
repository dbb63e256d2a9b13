"""A prefix in a packed batch: rows that its sequences attend to before their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from manyhats.methods.base import BoundComponent, Pair, SequenceSlices, pair_of
from manyhats.methods.component import StateDict
from manyhats.methods.operations import PrefixRows, gate_means
from manyhats.methods.prefix.config import PrefixConfig


@dataclass(frozen=True, slots=True)
class GatedRows:
    """A prefix scaled for each sequence by a gate: rows * mean over its tokens of sigmoid(gate(hidden)).

    UniPELT (Mao et al. 2022, section 3.1), as AdapterHub computes it. `gate`: (1, width) and (1,).
    """

    keys: Tensor
    values: Tensor
    gate: Pair

    def __call__(self, hidden: Tensor, slices: SequenceSlices) -> tuple[Tensor, Tensor]:
        gates = gate_means(F.linear(hidden, *self.gate), slices)[:, None, None, None]
        return (self.keys * gates).flatten(0, 1), (self.values * gates).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class NoRows:
    """Placeholder rows for a layer without a prefix, so that row indices agree between layers; attention skips them."""

    empty: Tensor  # (length, kv_heads, head_dim)
    each: bool

    def __call__(self, hidden: Tensor, slices: SequenceSlices) -> tuple[Tensor, Tensor]:
        rows = self.empty.repeat(len(slices), 1, 1) if self.each else self.empty
        return rows, rows


def rows_of(leaves: StateDict) -> PrefixRows | GatedRows:
    """A layer's rows."""
    gate = pair_of(leaves, "gate")
    own = leaves["keys"], leaves["values"]
    return PrefixRows(*own) if gate is None else GatedRows(*own, gate)


def bind_rows(rows: Mapping[int, Any], config: PrefixConfig, nbytes: int = 0, *, gated: bool = False) -> BoundComponent:
    """The bound component. `rows`: by layer `PrefixRows`, or `GatedRows` for all."""
    return BoundComponent(
        key_value=rows,
        prefix_rows=config.length,
        prefix_each=gated,
        prefix_left_out=frozenset(config.left_out),
        position_offset=config.length if config.shift_positions else 0,
        nbytes=nbytes,
    )

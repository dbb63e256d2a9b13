"""Bottleneck adapters at a residual site: those of all tasks with the same flags, in a few operations together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.kernels.base import Kernels, LowRank, ScaleAdd, Weight
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import pair_of
from manyhats.methods.bottleneck.compacter import materialise
from manyhats.methods.bottleneck.config import NAME, BottleneckConfig
from manyhats.methods.component import StateDict
from manyhats.methods.operations import OperationKind, gate_rows
from manyhats.methods.residual import ResidualGroup, ResidualPass, Tables, add_rows, in_rows


class AdapterInput(NamedTuple):
    """An adapter's inputs, computed from the site's before its own weights act. All (rows, hidden)."""

    hidden: Tensor  # what the down-projection reads
    query: Tensor  # what a fusion's query reads where it reads the states before the norm
    residual: Tensor | None  # added to the adapter's output; None for a parallel one


@dataclass(frozen=True, slots=True)
class BottleneckOperation:
    """One adapter at one residual site. `norm_before`, `norm_after`: gain and offset in float32, (hidden,); `gate`:
    weight (1, hidden), bias (1,)."""

    pair: LowRank
    norm_before: ScaleAdd | None
    norm_after: ScaleAdd | None
    gate: Weight | None
    config: BottleneckConfig

    @property
    def run(self) -> BottleneckRun:
        """Computes all adapters with the same flags together."""
        return BottleneckRun(self.config)

    @property
    def kind(self) -> OperationKind:
        return OperationKind(NAME, tuple(self.by_column), run=self.run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self.by_column.values())

    @property
    def by_column(self) -> dict[str, Any]:
        """The columns by name, without those that the adapter does not have."""
        own = {"pair": self.pair, "norm_before": self.norm_before, "norm_after": self.norm_after, "gate": self.gate}
        return {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True, slots=True)
class BottleneckRun:
    """Bottleneck adapters with the same flags, of all tasks together. See `methods.residual.ResidualRun`.

    AdapterHub's `Adapter.pre_forward`, `forward` and `post_forward`.
    """

    config: BottleneckConfig

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """The adapters' output for `hidden`."""
        config = self.config
        segments, tables = site.of(group.members), group.tables
        h, _, residual = self.read(group, site, hidden)
        normed = "norm_after" in tables
        first = residual if not normed or config.adapter_residual_before_ln else None
        # A parallel adapter's output is added to the sub-layer's in the end anyway.
        added = not normed and site.in_place and (first is site.f or config.is_parallel)
        out = self.project(site.kernels, tables, h, segments, site.f if added else first, in_place=added)
        if normed:
            out = _own_layer_norms(site.kernels, out, tables["norm_after"], segments, config.epsilon)
            if residual is not None and not config.adapter_residual_before_ln:
                projected, before = out, residual
                out = in_rows(segments, projected, lambda rows: projected[rows] + before[rows])
        return out

    def read(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> AdapterInput:
        """The adapters' input and residual (`adapters`: `Adapter.pre_forward`)."""
        config = self.config
        if config.is_parallel:
            return AdapterInput(site.x, site.x, None)
        h = residual = hidden
        if config.original_ln_before:
            h = site.join(hidden, group.members)
            if config.residual_before_ln == "post_add":
                residual = site.add(hidden, group.members)
        if config.residual_before_ln is False:
            residual = h
        return AdapterInput(h, hidden, residual)

    def project(
        self,
        kernels: Kernels,
        tables: Tables,
        h: Tensor,
        segments: Segments,
        first: Tensor | None,
        *,
        in_place: bool = False,
    ) -> Tensor:
        """The adapters' output for `h`, plus `first` where given: (rows, hidden) to (rows, hidden). `in_place`: `first`
        is overwritten."""
        gates = gate_rows(kernels, h, tables["gate"], segments) if "gate" in tables else None
        if "norm_before" in tables:
            h = _own_layer_norms(kernels, h, tables["norm_before"], segments, self.config.epsilon)
        if in_place and first is not None:
            out = first
        else:
            out = torch.empty_like(h if first is None else first)
            for rows in segments.runs:
                out[rows] = 0 if first is None else first[rows]
        kernels.low_rank(h, out, tables["pair"], segments, gates)
        return out

    @property
    def joins(self) -> bool:
        """Whether the residual stream is added after it, and the block's norm."""
        return self.config.original_ln_after

    def finish(self, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """What takes the sub-layer's place after adapters with these flags."""
        added = hidden is site.f or not self.config.is_parallel
        return hidden if added else add_rows(site.of(members), hidden, site.f)


def _own_layer_norms(kernels: Kernels, h: Tensor, table: Table[ScaleAdd], segments: Segments, epsilon: float) -> Tensor:
    """Layer norms with each adapter's own gain and offset: (rows, hidden) to (rows, hidden)."""
    width = h.shape[-1:]
    normed = in_rows(segments, h, lambda rows: F.layer_norm(h[rows].float(), width, None, None, epsilon))
    kernels.scale_add(normed, table, segments)
    return normed.to(h.dtype)


def bottleneck_operation(leaves: Mapping[str, Tensor], config: BottleneckConfig) -> BottleneckOperation:
    """The operation of an adapter's tensors at one site."""
    leaves = materialise(leaves)
    scale = leaves.get("scaling", config.scaling)
    gate = pair_of(leaves, "gate")
    return BottleneckOperation(
        pair=LowRank(
            leaves["down.weight"],
            leaves["up.weight"].T.contiguous(),  # the layout that the kernels read
            leaves["down.bias"],
            leaves["up.bias"],
            config.non_linearity,
            None if isinstance(scale, float) and scale == 1.0 else scale,
        ),
        norm_before=_norm(leaves, "norm_before"),
        norm_after=_norm(leaves, "norm_after"),
        gate=None if gate is None else Weight(*gate),
        config=config,
    )


def _norm(leaves: StateDict, name: str) -> ScaleAdd | None:
    own = pair_of(leaves, name)
    return None if own is None else ScaleAdd(own[0].float(), own[1].float())

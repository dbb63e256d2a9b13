"""Fusions at a residual site: those of all tasks with the same flags, in a few operations together.

A member's output is u_m = up_m a_m + b_m with a_m = act(down_m h + c_m), which has few dimensions. Everything linear
around it is multiplied out when an adapter is bound, so that no product with a (hidden, hidden) matrix remains:

    q . K u_m       = a_m . (up_m^T K^T Q) x + (b_m^T K^T Q) x    and the query's bias in the same way
    V sum_m w_m u_m = sum_m (V up_m) (w_m a_m) + w_m V b_m

The key's bias, and a residual that is a part of every u_m, add the same to all logits, which the softmax ignores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.kernels.activations import activation
from manyhats.kernels.base import Kernels, Weight
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import pair_of
from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.members import join_members, member_leaves
from manyhats.methods.bottleneck.operation import BottleneckOperation, BottleneckRun, bottleneck_operation
from manyhats.methods.component import Component, StateDict
from manyhats.methods.fusion.config import NAME, FusionConfig, FusionFlags
from manyhats.methods.operations import OperationKind
from manyhats.methods.residual import ResidualGroup, ResidualPass, add_rows, in_rows

_QUERY = -1  # stands for the query among the members' indices
_BEFORE_NORM = "before the norm"

# What a product reads: the adapter's input, as it is (None), normalised with an epsilon, or before the block's norm.
Source = None | float | str


@dataclass(frozen=True, slots=True)
class FusionOperation:
    """A fusion of n members of width r at one site; narrower ones are filled up with zeros.

    `lows`: a layer for each source of `run.reads`, of the parts that read it one below the other: members' down
    projections (r, hidden), and the query, (n * r + n, hidden), which gives what a_m is multiplied by, and what is
    added to each logit. `up`: (hidden, n * r + n), for w_m a_m and w_m. `value`: (hidden, hidden), for the residual
    that is a part of the members' outputs.
    """

    lows: tuple[Weight, ...]
    up: Weight
    value: Weight | None
    run: FusionRun

    @property
    def kind(self) -> OperationKind:
        return OperationKind(NAME, tuple(self._by_column), run=self.run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self._by_column.values())

    def to(self, dtype: torch.dtype) -> FusionOperation:
        """The same in another type."""

        def cast(layer: Weight) -> Weight:
            return Weight(layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))

        value = None if self.value is None else cast(self.value)
        return FusionOperation(tuple(map(cast, self.lows)), cast(self.up), value, self.run)

    @property
    def _by_column(self) -> dict[str, Weight]:
        found = {f"low.{i}": layer for i, layer in enumerate(self.lows)} | {"up": self.up}
        return found if self.value is None else found | {"value": self.value}


@dataclass(frozen=True, slots=True)
class FusionRun:
    """Fusions with the same flags and members of the same flags, of all tasks together. See `residual.ResidualRun`.

    `members`: the configs of those that act at the site; `width`: of the widest; `reads`: the parts by what they read.
    """

    members: tuple[BottleneckConfig, ...]
    config: FusionConfig
    width: int
    reads: tuple[tuple[Source, tuple[int, ...]], ...]

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """The fusions' output for `hidden`."""
        segments, tables, kernels = site.of(group.members), group.tables, site.kernels
        h, before, residual = BottleneckRun(self.members[-1]).read(group, site, hidden)
        residual = site.x if residual is None else residual
        sources: dict[Source, Tensor] = {_BEFORE_NORM: before, None: h}
        lows = [
            _layer(
                kernels,
                _normed(segments, h, source) if isinstance(source, float) else sources[source],
                tables[f"low.{i}"],
                segments,
                sum(map(self._outputs, parts)),
            )
            for i, (source, parts) in enumerate(self.reads)
        ]
        mixed = self._weighted(kernels, lows, segments)
        out = _layer(kernels, mixed, tables["up"], segments, h.shape[1])
        if "value" in tables:
            residual = _layer(kernels, residual, tables["value"], segments, h.shape[1])
        return add_rows(segments, out, residual)

    def _weighted(self, kernels: Kernels, lows: Sequence[Tensor], segments: Segments) -> Tensor:
        """w_m a_m of all members, and w_m: (rows, n * r + n). `lows`: the outputs of the layers, by source."""
        names = [member.non_linearity for member in self.members]
        parts = [part for _, own in self.reads for part in own]
        fused = kernels.fused_rows
        low: Tensor = lows[0]
        name: str | None = names[0]
        if len(lows) > 1 or len(set(names)) > 1 or parts[-1] != _QUERY:  # else side by side already
            sizes = [[self._outputs(part) for part in own] for _, own in self.reads]
            split = [one for own, size in zip(lows, sizes, strict=True) for one in torch.split(own, size, 1)]
            pieces = dict(zip(parts, split, strict=True))
            acted = [activation(own)(pieces[i]) for i, own in enumerate(names)]
            low, name = torch.cat([*acted, pieces[_QUERY]], dim=1), None
        if fused is not None and fused.supports(low.dtype, name) and not torch.is_grad_enabled():
            return fused.weigh_members(low, len(names), name, segments)
        return in_rows(segments, low, lambda rows: weigh_members(low[rows], len(names), name))

    def _outputs(self, part: int) -> int:
        """How many outputs a layer has for a member, or for the query."""
        return len(self.members) * (self.width + 1) if part == _QUERY else self.width

    @property
    def joins(self) -> bool:
        """As after the last of the fused adapters."""
        return BottleneckRun(self.members[-1]).joins

    def finish(self, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """What takes the sub-layer's place, as after the last of the fused adapters."""
        return BottleneckRun(self.members[-1]).finish(site, hidden, members)


def weigh_members(low: Tensor, members: int, name: str | None) -> Tensor:
    """See `kernels.base.FusedRows.weigh_members`, here for all rows. `name`: of the activation."""
    size = (low.shape[1] - members) // 2
    acted, factors, more = torch.split(low, [size, size, members], dim=1)
    acted = (acted if name is None else activation(name)(acted)).reshape(-1, members, size // members)
    weights = torch.softmax((acted * factors.reshape(acted.shape)).sum(-1) + more, dim=1)
    return torch.cat([(acted * weights[:, :, None]).flatten(1), weights], dim=1)


def _layer(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments, out: int) -> Tensor:
    """(rows, in) to (rows, out), through each adapter's own layer."""
    y = x.new_empty(len(x), out)
    kernels.linear(x, y, table, segments)
    return y


def _normed(segments: Segments, h: Tensor, epsilon: float) -> Tensor:
    """Layer norms without gain and offset, which are a part of the layer that follows."""
    return in_rows(
        segments, h, lambda rows: F.layer_norm(h[rows].float(), h.shape[-1:], None, None, epsilon).to(h.dtype)
    )


def fuse(
    members: Sequence[Component[BottleneckConfig]], layers: Mapping[str, StateDict], flags: FusionFlags
) -> Component[FusionConfig]:
    """One component of bottleneck adapters, which act only at the sites of `layers`, and the fusion's tensors there."""
    joined = join_members(members)
    sites = {site: {**leaves, **joined.get(site, {})} for site, leaves in layers.items()}
    config = FusionConfig(members=tuple(member.config for member in members), **flags.model_dump())
    return Component(NAME, config, sites)


def fusion_operation(leaves: Mapping[str, Tensor], config: FusionConfig) -> FusionOperation:
    """The operation of a fusion's tensors at one site, without members that have no adapter there."""
    members = [
        bottleneck_operation(own, member)
        for index, member in enumerate(config.members)
        if (own := member_leaves(leaves, index))
    ]
    width = max(len(member.pair.down) for member in members)
    query, key, value = pair_of(leaves, "query"), pair_of(leaves, "key"), leaves.get("value.weight")
    downs, outs = [], []
    for member in members:
        down, own_bias, out = _member_layers(member, width)
        downs.append((down, own_bias))
        outs.append(out)
    # The rows u whose combinations are the members' outputs: up_m's of every member, then every b_m.
    rows = torch.cat([*[out[:-1] for out in outs], torch.stack([out[-1] for out in outs])])
    asked = rows if key is None else rows @ key[0].T  # K u
    bias = rows.new_zeros(len(rows)) if query is None else asked @ query[1]
    asked = asked if query is None else asked @ query[0]
    parts: dict[Source, list[int]] = {}
    for i, member in enumerate(members):
        parts.setdefault(None if member.norm_before is None else member.config.epsilon, []).append(i)
    parts.setdefault(_BEFORE_NORM if config.query_before_ln else None, []).append(_QUERY)
    layers = {_QUERY: (asked, bias), **dict(enumerate(downs))}
    reads = tuple((source, tuple(own)) for source, own in parts.items())
    lows = tuple(
        Weight(torch.cat([layers[part][0] for part in own]), torch.cat([layers[part][1] for part in own]))
        for _, own in reads
    )
    up = (rows if value is None else rows @ value.T).T.contiguous()
    kept = Weight(value) if value is not None and config.residual_before else None
    configs = tuple(member.config for member in members)
    return FusionOperation(lows, Weight(up), kept, FusionRun(configs, config, width, reads))


def _member_layers(member: BottleneckOperation, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """A member's down projection (width, hidden) and its bias (width,), with the gain and offset of its norm, and its
    up projection and bias (width + 1, hidden), with its scale. Filled up with zeros, which change nothing."""
    down, up, down_bias, up_bias, _, scale = member.pair
    assert down_bias is not None
    assert up_bias is not None
    norm = member.norm_before
    if norm is not None and norm.offset is not None:
        down_bias = down_bias + down @ norm.offset.to(down.dtype)
    if norm is not None and norm.gain is not None:
        down = down * norm.gain.to(down.dtype)
    more = width - len(down)
    out = torch.cat([F.pad(up, (0, 0, 0, more)), up_bias[None]])
    return F.pad(down, (0, 0, 0, more)), F.pad(down_bias, (0, more)), out if scale is None else out * scale

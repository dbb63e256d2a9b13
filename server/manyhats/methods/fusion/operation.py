"""Fusions at a residual site: those of all tasks with the same flags, in a few operations together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyhats.kernels.base import Kernels, Weight
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import pair_of
from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.members import join_members, member_columns, member_leaves, member_tables
from manyhats.methods.bottleneck.operation import BottleneckOperation, BottleneckRun, bottleneck_operation
from manyhats.methods.component import Component, StateDict
from manyhats.methods.fusion.config import NAME, FusionConfig, FusionFlags
from manyhats.methods.operations import OperationKind
from manyhats.methods.residual import ResidualGroup, ResidualPass, in_rows


@dataclass(frozen=True, slots=True)
class FusionOperation:
    """A fusion at one site. `query`, `key`: weight (hidden, hidden) and bias (hidden,); `value`: only a weight. None:
    the identity."""

    members: tuple[BottleneckOperation, ...]
    query: Weight | None
    key: Weight | None
    value: Weight | None
    config: FusionConfig

    @property
    def kind(self) -> OperationKind:
        run = FusionRun(tuple(member.run for member in self.members), self.config)
        return OperationKind(NAME, tuple(self._by_column), run=run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self._by_column.values())

    @property
    def _by_column(self) -> dict[str, Any]:
        layers = {"query": self.query, "key": self.key, "value": self.value}
        return member_columns(self.members) | {name: layer for name, layer in layers.items() if layer is not None}


@dataclass(frozen=True, slots=True)
class FusionRun:
    """Fusions with the same flags and members of the same flags, of all tasks together. See `residual.ResidualRun`."""

    members: tuple[BottleneckRun, ...]
    config: FusionConfig

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """The fusions' output for `hidden`."""
        config = self.config
        segments, tables, kernels = site.of(group.members), group.tables, site.kernels
        h, before, residual = self.members[-1].read(group, site, hidden)
        residual = site.x if residual is None else residual
        first = residual if config.residual_before else None
        ups = torch.stack(
            [
                member.project(kernels, member_tables(tables, i), h, segments, first)
                for i, member in enumerate(self.members)
            ],
            dim=1,
        )  # (rows, members, hidden)
        query = before if config.query_before_ln else h
        if "query" in tables:
            query = _layer(kernels, query, tables["query"], segments)
        keys = values = ups
        if "key" in tables:
            keys = _layers(kernels, ups, tables["key"], segments)
        if "value" in tables and config.value_before_softmax:
            values = _layers(kernels, ups, tables["value"], segments)

        def mixed(rows: slice) -> Tensor:
            weights = torch.softmax(torch.einsum("rh,rmh->rm", query[rows], keys[rows]), dim=1)
            return torch.einsum("rm,rmh->rh", weights, values[rows])

        out = in_rows(segments, h, mixed)
        if "value" in tables and not config.value_before_softmax:
            out = _layer(kernels, out, tables["value"], segments)
        if config.residual_before:
            return out
        fused = out
        return in_rows(segments, fused, lambda rows: fused[rows] + residual[rows])

    def finish(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """The residual stream after the fusion, as after the last of the fused adapters."""
        return self.members[-1].finish(group, site, hidden, members)


def _layer(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """(rows, hidden) to (rows, hidden), through each adapter's own layer."""
    y = torch.empty_like(x)
    kernels.linear(x, y, table, segments)
    return y


def _layers(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """(rows, members, hidden) to the same, through each adapter's own layer."""
    count = x.shape[1]
    return _layer(kernels, x.flatten(0, 1), table, segments.repeat_rows(count)).view(x.shape)


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
    members = tuple(
        bottleneck_operation(own, member)
        for index, member in enumerate(config.members)
        if (own := member_leaves(leaves, index))
    )
    query, key = pair_of(leaves, "query"), pair_of(leaves, "key")
    return FusionOperation(
        members,
        None if query is None else Weight(*query),
        None if key is None else Weight(*key),
        Weight(leaves["value.weight"]) if "value.weight" in leaves else None,
        config,
    )

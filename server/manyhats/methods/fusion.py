"""AdapterFusion: attention over the outputs of several bottleneck adapters (Pfeiffer et al. 2021, section 3).

With h and the query what the last adapter reads (after its norm, or before it), r its residual, and
u_i = A_i(h) without residual:

    p = softmax_i( (W_q query + b_q) . (W_k k_i + b_k) )        k_i = v_i = u_i, or u_i + r with `residual_before`
    c = sum_i p_i W_v v_i  [+ r]        out = norm(c + x)

as AdapterHub's `BertFusion` computes it; its temperature is 1 here (there it falls to 1 while it is used).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import Kernels, Weight
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_shape,
    on_device,
    pair_of,
    parameter_key,
)
from manyhats.methods.bottleneck import (
    Bottleneck,
    BottleneckConfig,
    BottleneckOperation,
    bottleneck_operation,
    finish,
    project,
    read,
)
from manyhats.methods.component import Component, MethodConfig, StateDict, size_of
from manyhats.methods.operations import OperationKind
from manyhats.methods.options import Options
from manyhats.methods.residual import ResidualGroup, ResidualPass, Tables, in_rows

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class FusionFlags(MethodConfig):
    """What AdapterHub's fusion config says that changes the answer."""

    key: bool = True
    query: bool = True
    value: bool = True
    query_before_ln: bool = False
    residual_before: bool = False
    value_before_softmax: bool = True


class FusionConfig(FusionFlags):
    """`members`: the adapters' configs, in the order of the fusion."""

    members: tuple[BottleneckConfig, ...]


def fuse(members: Sequence[Component[Any]], layers: Mapping[str, StateDict], flags: FusionFlags) -> Component[Any]:
    """One part of bottleneck adapters, which act nowhere else than `layers`, and of these, the fusion's own leaves."""
    configs = tuple(component.config for component in members if isinstance(component.config, BottleneckConfig))
    joined = join_members(members)
    sites = {site: {**leaves, **joined.get(site, {})} for site, leaves in layers.items()}
    return Component(Fusion.name, FusionConfig(members=configs, **flags.model_dump()), sites)


def join_members(components: Sequence[Component[Any]]) -> dict[str, dict[str, Tensor]]:
    """The leaves of several parts by site, each under its member's name."""
    sites: dict[str, dict[str, Tensor]] = {}
    for index, component in enumerate(components):
        for site, leaves in component.tensors.items():
            sites.setdefault(site, {}).update({member_leaf(index, leaf): t for leaf, t in leaves.items()})
    return sites


def member_leaf(index: int, leaf: str) -> str:
    """The name that a member's leaf has in a fusion's part."""
    return f"member.{index}.{leaf}"


def member_leaves(leaves: StateDict, index: int) -> dict[str, Tensor]:
    """A member's own leaves at a site; empty where it has no adapter there."""
    start = member_leaf(index, "")
    return {name.removeprefix(start): tensor for name, tensor in leaves.items() if name.startswith(start)}


def member_columns(members: Sequence[BottleneckOperation]) -> dict[str, Any]:
    """The columns of several members, each under its member's name."""
    return {
        member_leaf(i, name): value
        for i, member in enumerate(members)
        for name, value in zip(member.kind.columns, member.columns, strict=True)
    }


def member_tables(tables: Tables, index: int) -> Tables:
    """A member's own tables."""
    start = member_leaf(index, "")
    return {name.removeprefix(start): table for name, table in tables.items() if name.startswith(start)}


@dataclass(frozen=True, slots=True)
class FusionOperation:
    """A fusion at one site. `query`, `key`: weight (hidden, hidden) and bias (hidden,); `value`: weight alone. None:
    the identity."""

    members: tuple[BottleneckOperation, ...]
    query: Weight | None
    key: Weight | None
    value: Weight | None
    config: FusionConfig

    @property
    def kind(self) -> OperationKind:
        own = tuple(member.kind for member in self.members)
        return OperationKind("fusion", tuple(self._own), (own, self.config), Fusions)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self._own.values())

    @property
    def _own(self) -> dict[str, Any]:
        layers = {"query": self.query, "key": self.key, "value": self.value}
        return member_columns(self.members) | {name: layer for name, layer in layers.items() if layer is not None}


class Fusions:
    """Fusions with the same flags and members of the same flags, of all tasks together. See `residual.ResidualRun`."""

    @staticmethod
    def step(group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        kinds, config = _detail(group.kind)
        segments, tables, kernels = site.of(group.members), group.tables, site.kernels
        h, before, residual = read(kinds[-1].detail, group, site, hidden)
        residual = site.x if residual is None else residual
        first = residual if config.residual_before else None
        ups = torch.stack(
            [
                project(kernels, kind.detail, member_tables(tables, i), h, segments, first)
                for i, kind in enumerate(kinds)
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
        done = out
        return in_rows(segments, done, lambda rows: done[rows] + residual[rows])

    @staticmethod
    def finish(group: ResidualGroup, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        return finish(_detail(group.kind)[0][-1].detail, site, hidden, members)


def _detail(kind: OperationKind) -> tuple[tuple[Any, ...], FusionConfig]:
    """The members' kinds, whose details are their configs, and the fusion's config."""
    assert isinstance(kind.detail, tuple)
    kinds, config = kind.detail
    return kinds, config


def _layer(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """(rows, hidden) to (rows, hidden), through each adapter's own layer."""
    y = torch.empty_like(x)
    kernels.linear(x, y, table, segments)
    return y


def _layers(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """(rows, members, hidden) to the same, through each adapter's own layer."""
    count = x.shape[1]
    return _layer(kernels, x.flatten(0, 1), table, segments.repeat_rows(count)).view(x.shape)


class Fusion(Method[FusionConfig]):
    """Leaves at a residual site: `member.<i>.<leaf of bottleneck>`, and where the config asks for them
    `query.weight`, `query.bias`, `key.weight`, `key.bias`, `value.weight`."""

    name: ClassVar[str] = "fusion"
    config = FusionConfig

    def check(self, component: Component[FusionConfig], backbone: Backbone) -> None:
        config = component.config
        if len(config.members) < 2:
            raise AdapterMismatch(f"a fusion needs two members or more, not {len(config.members)}", param="members")
        if any(member.use_gating for member in config.members):
            raise AdapterMismatch("adapters with gating cannot be members of a fusion", param="use_gating")
        for index, member in enumerate(config.members):
            sites = {site: member_leaves(leaves, index) for site, leaves in component.tensors.items()}
            own = {site: leaves for site, leaves in sites.items() if leaves}
            Bottleneck().check(Component(Bottleneck.name, member, own), backbone)
        hidden = backbone.hidden
        for site, leaves in component.tensors.items():
            if not any(member_leaves(leaves, index) for index in range(len(config.members))):
                raise AdapterMismatch(f"none of the fusion's members has an adapter at {site}", param=site)
            wanted: dict[str, tuple[int, ...]] = {}
            if config.query:
                wanted |= {"query.weight": (hidden, hidden), "query.bias": (hidden,)}
            if config.key:
                wanted |= {"key.weight": (hidden, hidden), "key.bias": (hidden,)}
            if config.value:
                wanted |= {"value.weight": (hidden, hidden)}
            expect_leaves(leaves, list(wanted), site)
            for name, tensor in leaves.items():
                if name in wanted:
                    expect_shape(tensor, wanted[name], f"{site}.{name}", backbone)
                elif not name.startswith("member."):
                    raise AdapterMismatch(f"the fusion's config has no place for '{site}.{name}'", param=name)

    def bind(self, component: Component[FusionConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: on_device(leaves, backbone) for site, leaves in component.tensors.items()}
        operations = {site: _operation(leaves, component.config) for site, leaves in ready.items()}
        return BoundComponent(residual=operations, nbytes=size_of(ready.values()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """`members`: the parts that are fused, frozen."""
        chosen = Options(options, method=self.name)
        members = chosen.components("members")
        weight = chosen.number("value_regularisation", 0.01)
        chosen.done()
        for component in members:
            if not isinstance(component.config, BottleneckConfig):
                raise InvalidRequest(
                    f"fusion: a member is a {component.method}; bottleneck adapters can be fused", param="members"
                )
            Bottleneck().check(component, backbone)
        if len(members) < 2:
            raise InvalidRequest("fusion: two members or more are fused; name their folders", param="members")
        return _TrainableFusion(backbone, members, weight, generator)

    def rank(self, component: Component[FusionConfig]) -> int | None:
        downs = [t for leaves in component.tensors.values() for name, t in leaves.items() if name.endswith("down.bias")]
        return max(down.shape[0] for down in downs)


def _operation(leaves: Mapping[str, Tensor], config: FusionConfig) -> FusionOperation:
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


_LAYER = ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight")


class _TrainableFusion(Trainable):
    """The second stage of AdapterFusion: the members are frozen (section 3.2)."""

    def __init__(
        self, backbone: Backbone, members: Sequence[Component[Any]], regularisation: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.members = [
            Component(m.method, m.config, {site: on_device(leaves, backbone) for site, leaves in m.tensors.items()})
            for m in members
        ]
        self.regularisation = regularisation
        self.sites = sorted({site for member in members for site in member.tensors})
        self.leaves = nn.ParameterDict()
        width = backbone.hidden
        for site in self.sites:
            for name in _LAYER:
                if name == "value.weight":  # near the identity, as AdapterHub starts it
                    value = torch.full((width, width), 1e-6).fill_diagonal_(1.0)
                elif name.endswith("bias"):
                    value = torch.zeros(width)
                else:
                    value = torch.randn(width, width, generator=generator) * 0.02
                self.leaves[parameter_key(site, name)] = nn.Parameter(value.to(backbone.device))

    def _whole(self) -> Component[Any]:
        own = {site: {name: self.leaves[parameter_key(site, name)] for name in _LAYER} for site in self.sites}
        return fuse(self.members, own, FusionFlags())

    def bound(self) -> BoundComponent:
        whole = self._whole()
        return BoundComponent(
            residual={site: _operation(leaves, whole.config) for site, leaves in whole.tensors.items()}
        )

    def penalty(self) -> Tensor | None:
        """Keeps the values near the identity, so that the members' own outputs are mixed (section 3.2)."""
        if not self.regularisation:
            return None
        values = [self.leaves[parameter_key(site, "value.weight")] for site in self.sites]
        away = torch.stack([(v - torch.eye(len(v), device=v.device)).square().sum() for v in values])
        return self.regularisation * away.sum()

    def component(self) -> Component[FusionConfig]:
        whole = self._whole()
        tensors = {s: {n: t.detach().cpu() for n, t in leaves.items()} for s, leaves in whole.tensors.items()}
        return Component(Fusion.name, whole.config, tensors)

"""Averaging: the outputs of several bottleneck adapters at one place, weighted (AdapterHub's `Average`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.base import BoundComponent, Method, Trainable, on_device
from manyhats.methods.bottleneck import (
    Bottleneck,
    BottleneckConfig,
    BottleneckOperation,
    Bottlenecks,
    bottleneck_operation,
    finish,
)
from manyhats.methods.component import Component, MethodConfig, size_of
from manyhats.methods.fusion import join_members, member_columns, member_leaves, member_tables
from manyhats.methods.operations import OperationKind
from manyhats.methods.options import Options
from manyhats.methods.residual import ResidualGroup, ResidualPass, in_rows

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class AverageConfig(MethodConfig):
    """`members`: the adapters' configs; `weights`: one for each."""

    members: tuple[BottleneckConfig, ...] = Field(min_length=2)
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AverageOperation:
    """Members and their weights at one site."""

    members: tuple[BottleneckOperation, ...]
    weights: tuple[float, ...]

    @property
    def kind(self) -> OperationKind:
        own = tuple(member.kind for member in self.members)
        return OperationKind("average", tuple(member_columns(self.members)), (own, self.weights), Averages)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(member_columns(self.members).values())


class Averages:
    """Averages with the same weights, of members with the same flags. See `methods.residual.ResidualRun`."""

    @staticmethod
    def step(group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        kinds, weights = _detail(group.kind)
        outs = []
        for i, kind in enumerate(kinds):
            one = ResidualGroup(kind, group.order, member_tables(group.tables, i), group.members)
            outs.append(Bottlenecks.step(one, site, hidden))

        def total(rows: slice) -> Tensor:
            found = weights[0] * outs[0][rows]
            for weight, out in zip(weights[1:], outs[1:], strict=True):
                found = found + weight * out[rows]
            return found

        return in_rows(site.of(group.members), outs[0], total)

    @staticmethod
    def finish(group: ResidualGroup, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        return finish(_detail(group.kind)[0][-1].detail, site, hidden, members)


def _detail(kind: OperationKind) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """The members' kinds, and their weights."""
    assert isinstance(kind.detail, tuple)
    kinds, weights = kind.detail
    return kinds, weights


class Average(Method[AverageConfig]):
    """Leaves at a residual site: `member.<i>.<leaf of bottleneck>`, of every member."""

    name: ClassVar[str] = "average"
    config = AverageConfig

    def check(self, component: Component[AverageConfig], backbone: Backbone) -> None:
        config = component.config
        if len(config.weights) != len(config.members):
            raise AdapterMismatch(
                f"there are {len(config.weights)} weights for {len(config.members)} members", param="weights"
            )
        for index, member in enumerate(config.members):
            sites = {site: member_leaves(leaves, index) for site, leaves in component.tensors.items()}
            missing = [site for site, leaves in sites.items() if not leaves]
            if missing:
                raise AdapterMismatch(f"the member {index} has no adapter at {missing[0]}", param=missing[0])
            Bottleneck().check(Component(Bottleneck.name, member, sites), backbone)

    def bind(self, component: Component[AverageConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: on_device(leaves, backbone) for site, leaves in component.tensors.items()}
        config = component.config
        operations = {
            site: AverageOperation(
                tuple(bottleneck_operation(member_leaves(leaves, i), own) for i, own in enumerate(config.members)),
                config.weights,
            )
            for site, leaves in ready.items()
        }
        return BoundComponent(residual=operations, nbytes=size_of(ready.values()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """`members`: the parts that are averaged; `weights`: one for each, else all count alike."""
        chosen = Options(options, method=self.name)
        members = chosen.components("members")
        weights = chosen.numbers("weights", [1 / max(len(members), 1)] * len(members))
        chosen.done()
        component = average_of(members, weights)
        self.check(component, backbone)
        return _Averaged(self, component, backbone)


def average_of(members: Sequence[Component[Any]], weights: Sequence[float]) -> Component[Any]:
    """Raises InvalidRequest for members that are no bottleneck adapters."""
    strange = next(
        (component.method for component in members if not isinstance(component.config, BottleneckConfig)), None
    )
    if strange is not None or len(members) < 2:
        found = f"a member is a {strange}" if strange else f"{len(members)} members are named"
        raise InvalidRequest(f"average: {found}; two bottleneck adapters or more are averaged", param="members")
    configs = tuple(component.config for component in members if isinstance(component.config, BottleneckConfig))
    return Component(Average.name, AverageConfig(members=configs, weights=tuple(weights)), join_members(members))


class _Averaged(Trainable):
    """Nothing of it is trained: members and weights are given, and the head learns to read them."""

    def __init__(self, method: Average, component: Component[AverageConfig], backbone: Backbone) -> None:
        super().__init__()
        self._part = component
        self._bound = method.bind(component, backbone)

    def bound(self) -> BoundComponent:
        return self._bound

    def component(self) -> Component[AverageConfig]:
        return self._part

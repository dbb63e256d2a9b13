"""Averages of bottleneck adapters as a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.base import BoundComponent, Method, Trainable, in_dtype
from manyhats.methods.bottleneck import Bottleneck, BottleneckConfig
from manyhats.methods.bottleneck.members import (
    is_bottleneck,
    join_members,
    member_columns,
    member_leaves,
    member_tables,
)
from manyhats.methods.bottleneck.operation import BottleneckOperation, BottleneckRun, bottleneck_operation
from manyhats.methods.component import Component, MethodConfig, size_of
from manyhats.methods.operations import OperationKind
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.residual import ResidualGroup, ResidualPass, in_rows

if TYPE_CHECKING:
    import torch

    from manyhats.backbone import Backbone

NAME = "average"


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
        run = AverageRun(tuple(member.run for member in self.members), self.weights)
        return OperationKind(NAME, tuple(member_columns(self.members)), run=run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(member_columns(self.members).values())


@dataclass(frozen=True, slots=True)
class AverageRun:
    """Averages with the same weights, of members with the same flags. See `methods.residual.ResidualRun`."""

    members: tuple[BottleneckRun, ...]
    weights: tuple[float, ...]

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """The averages' output for `hidden`."""
        site = replace(site, single=False)  # every member reads the site's tensors as they are
        outs = [
            member.step(group._replace(tables=member_tables(group.tables, index)), site, hidden)
            for index, member in enumerate(self.members)
        ]

        def total(rows: slice) -> Tensor:
            found = self.weights[0] * outs[0][rows]
            for weight, out in zip(self.weights[1:], outs[1:], strict=True):
                found = found + weight * out[rows]
            return found

        return in_rows(site.of(group.members), outs[0], total)

    @property
    def joins(self) -> bool:
        """As after the last of the averaged adapters."""
        return self.members[-1].joins

    def finish(self, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """What takes the sub-layer's place, as after the last of the averaged adapters."""
        return self.members[-1].finish(site, hidden, members)


class Average(Method[AverageConfig]):
    """Tensors at a residual site: `member.<i>.<name in a bottleneck adapter>`, of every member."""

    name: ClassVar[str] = NAME
    config = AverageConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "average": Recipe(NAME, Schedule(1e-3), "AdapterHub's Average", needs="members")
    }

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
        ready = {site: in_dtype(leaves, backbone) for site, leaves in component.tensors.items()}
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
        """`members`: the components that are averaged; `weights`: one for each, by default equal."""
        chosen = Options(options, method=self.name)
        members = chosen.components("members")
        weights = chosen.numbers("weights", [1 / max(len(members), 1)] * len(members))
        chosen.reject_unknown()
        component = average_of(members, weights)
        self.check(component, backbone)
        return _FixedAverage(self, component, backbone)


def average_of(members: Sequence[Component[Any]], weights: Sequence[float]) -> Component[AverageConfig]:
    """Raises InvalidRequest for members other than bottleneck adapters."""
    averaged = [component for component in members if is_bottleneck(component)]
    other = next((component.method for component in members if not is_bottleneck(component)), None)
    if other is not None or len(members) < 2:
        found = f"a member is a {other}" if other else f"{len(members)} members are named"
        raise InvalidRequest(f"average: {found}; two bottleneck adapters or more are averaged", param="members")
    config = AverageConfig(members=tuple(component.config for component in averaged), weights=tuple(weights))
    return Component(NAME, config, join_members(averaged))


class _FixedAverage(Trainable):
    """Has no parameters: members and weights are fixed, and only the head is trained."""

    def __init__(self, method: Average, component: Component[AverageConfig], backbone: Backbone) -> None:
        super().__init__()
        self._component = component
        self._bound = method.bind(component.to(backbone.device), backbone)

    def bound(self) -> BoundComponent:
        return self._bound

    def component(self) -> Component[AverageConfig]:
        return self._component

"""Several bottleneck adapters as the members of one component: how their tensors and tables are named at a site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import Tensor

from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.operation import BottleneckOperation
from manyhats.methods.component import Component, StateDict
from manyhats.methods.residual import Tables


def is_bottleneck(component: Component[Any]) -> TypeGuard[Component[BottleneckConfig]]:
    """Whether a component is a bottleneck adapter."""
    return isinstance(component.config, BottleneckConfig)


def join_members(components: Sequence[Component[BottleneckConfig]]) -> dict[str, dict[str, Tensor]]:
    """The tensors of several components by site, with the member's index in their names."""
    sites: dict[str, dict[str, Tensor]] = {}
    for index, component in enumerate(components):
        for site, leaves in component.tensors.items():
            sites.setdefault(site, {}).update({member_leaf(index, leaf): t for leaf, t in leaves.items()})
    return sites


def member_leaf(index: int, leaf: str) -> str:
    """The name of a member's tensor in a component of several members."""
    return f"member.{index}.{leaf}"


def member_leaves(leaves: StateDict, index: int) -> dict[str, Tensor]:
    """A member's tensors at a site; empty where it has no adapter there."""
    start = member_leaf(index, "")
    return {name.removeprefix(start): tensor for name, tensor in leaves.items() if name.startswith(start)}


def member_columns(members: Sequence[BottleneckOperation]) -> dict[str, Any]:
    """The columns of several members, each under its member's name."""
    return {
        member_leaf(index, name): value
        for index, member in enumerate(members)
        for name, value in member.by_column.items()
    }


def member_tables(tables: Tables, index: int) -> Tables:
    """A member's own tables."""
    start = member_leaf(index, "")
    return {name.removeprefix(start): table for name, table in tables.items() if name.startswith(start)}

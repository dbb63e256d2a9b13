"""The operations on the outputs of several linear layers that read the same rows, where kernels join low-rank pairs.

Steps follow each other as each layer's own operations do: pairs of one order are one call for all layers, whatever
adapters act at which of them; other operations are called layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from manyhats.kernels.base import JoinedLowRank, JoinedPair, Kernels
from manyhats.kernels.segments import Segments
from manyhats.methods.operations import AddLowRank
from manyhats.methods.slots import Group

SegmentsOf = Callable[[tuple[int, ...]], Segments]


class _Step(NamedTuple):
    """Operations of one kind and order. `groups`: with the index of their layer; `members`: the signatures of all."""

    groups: list[tuple[int, Group]]
    members: tuple[int, ...]


class JoinedActor:
    """See `backbone.sites.JoinedActor`. `layers`: the operations on each layer's output, sorted by order;
    `segments_of`: gives the running pass's segments of some signatures. `members`: the signatures of each joined call.
    """

    def __init__(
        self, kernels: Kernels, join: JoinedLowRank, layers: Sequence[Sequence[Group]], segments_of: SegmentsOf
    ) -> None:
        self._kernels = kernels
        self._join = join
        self._segments_of = segments_of
        self._steps = _steps(layers)
        self.members = [step.members for step in self._steps if len(step.groups) > 1]

    def __call__(self, x: Tensor, ys: Sequence[Tensor]) -> None:
        of = self._segments_of
        for groups, members in self._steps:
            if len(groups) == 1:
                ((layer, group),) = groups
                group.placement.kind.run(self._kernels, x, ys[layer], group.tables, of(group.members))
            else:
                pairs = [JoinedPair(ys[layer], group.tables["pair"], of(group.members)) for layer, group in groups]
                self._join(x, pairs, of(members))


def _steps(layers: Sequence[Sequence[Group]]) -> list[_Step]:
    pairs: dict[int, _Step] = {}  # by order
    steps: list[tuple[int, _Step]] = []
    for layer, groups in enumerate(layers):
        for group in groups:
            order = group.placement.order
            if group.placement.kind is AddLowRank.kind and order in pairs:
                pairs[order].groups.append((layer, group))
                continue
            step = _Step([(layer, group)], ())
            steps.append((order, step))
            if group.placement.kind is AddLowRank.kind:
                pairs[order] = step
    steps.sort(key=lambda one: one[0])  # stable: layers do not depend on each other
    return [
        step._replace(members=tuple(sorted({member for _, group in step.groups for member in group.members})))
        for _, step in steps
    ]


def joined_actor(kernels: Kernels, layers: Sequence[Sequence[Group]], segments_of: SegmentsOf) -> JoinedActor | None:
    """The actor of some layers; None where no two of them have pairs that the kernels join."""
    if kernels.joined_low_rank is None:
        return None
    actor = JoinedActor(kernels, kernels.joined_low_rank, layers, segments_of)
    return actor if actor.members else None

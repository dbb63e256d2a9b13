"""Where a sub-layer joins the residual stream: what the adapters of all tasks do there, group by group.

Adapters of one batch may differ in their kind, in their flags, and in how many of them stand one behind the other. Each
group that is alike in this is a few operations over its own rows, however many tasks it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from manyhats.backbone.sites import NormSite
from manyhats.kernels.base import Kernels
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.base import put_rows
from manyhats.methods.operations import Kind

Tables = dict[str, Table[Any]]


class OwnNorms(Protocol):
    """The norms that adapters bring in place of the backbone's at one site."""

    def among(self, signatures: Sequence[int], x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        """`y`, the backbone's norm of `x`, with the rows of adapters with these signatures as their norms make them."""
        ...


class ResidualGroup(NamedTuple):
    """Operations of one kind and stage. `members`: the signatures of their adapters."""

    kind: Kind
    stage: int
    tables: Tables
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResidualPass:
    """What all groups at one site work with. `f`: the sub-layer's output, `x`: its residual input, `joined`:
    norm(f + x), all (rows, hidden); `norm`: the norm behind the sum, None in blocks that normalise elsewhere; `of`: the
    segments of some signatures."""

    kernels: Kernels
    f: Tensor
    x: Tensor
    joined: Tensor
    norm: NormSite | None
    own_norms: OwnNorms | None
    of: Callable[[tuple[int, ...]], Segments]

    def join(self, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """norm(hidden + x) in the members' rows, with the norms that they bring."""
        segments = self.of(members)
        total = in_rows(segments, hidden, lambda rows: hidden[rows] + self.x[rows])
        norm = self.norm
        if norm is None:
            return total
        normed = in_rows(segments, total, lambda rows: norm.plain(total[rows]))
        return normed if self.own_norms is None else self.own_norms.among(members, total, normed, norm)


class ResidualRun(Protocol):
    """Does the operations of one kind. All tensors are (rows, hidden) and hold what is meant in the members' rows."""

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """What the adapters make of `hidden`, which is `site.f` itself or what those before them made of it."""
        ...

    def finish(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """What goes on in the residual stream, where these were the last of their adapters. `members`: for whom."""
        ...


def join_residual(site: ResidualPass, groups: Sequence[ResidualGroup]) -> Tensor:
    """`site.joined`, with the rows of all groups as their adapters make them. `groups`: by stage."""
    made: dict[int, list[tuple[ResidualGroup, Tensor]]] = {}  # by stage
    for group in groups:
        before = made.get(group.stage - 1, [])
        hidden = _gathered(site, group.members, before) if group.stage else site.f
        run: ResidualRun = group.kind.run
        made.setdefault(group.stage, []).append((group, run.step(group, site, hidden)))
    pieces: list[tuple[slice, Tensor]] = []
    for stage, several in made.items():
        going_on = {member for group, _ in made.get(stage + 1, ()) for member in group.members}
        for group, hidden in several:
            last = tuple(member for member in group.members if member not in going_on)
            if last:
                out = group.kind.run.finish(group, site, hidden, last)
                pieces += [(rows, out[rows]) for rows in site.of(last).runs]
    return put_rows(site.joined, sorted(pieces, key=lambda piece: piece[0].start))


def _gathered(site: ResidualPass, members: tuple[int, ...], before: Sequence[tuple[ResidualGroup, Tensor]]) -> Tensor:
    """What the operations before have made for some members."""
    if len(before) == 1:
        return before[0][1]
    whole = torch.empty_like(before[0][1])
    for group, hidden in before:
        own = tuple(member for member in group.members if member in members)
        for rows in site.of(own).runs:
            whole[rows] = hidden[rows]
    return whole


def in_rows(segments: Segments, like: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
    """A tensor with the shape of `like` whose rows in the segments `make` gives; others have no meaning."""
    runs = segments.runs
    if len(runs) == 1 and runs[0] == slice(0, len(like)):
        return make(runs[0])
    pieces = [make(rows) for rows in runs]
    whole = pieces[0].new_empty(like.shape)
    for rows, piece in zip(runs, pieces, strict=True):
        whole[rows] = piece
    return whole

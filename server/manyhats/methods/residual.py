"""Operations where a sub-layer joins the residual stream, such as bottleneck adapters and fusions.

Adapters of one batch may differ in the kind of operation, in its flags, and in how many operations follow each other.
All operations of one kind and order form a group, which is computed together for all of its adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from manyhats.backbone.sites import NormSite
from manyhats.kernels.base import FusedRows, Kernels
from manyhats.kernels.segments import Segment, Segments, Table
from manyhats.methods.base import put_rows
from manyhats.methods.operations import OperationKind

Tables = dict[str, Table[Any]]


class OwnNorms(Protocol):
    """The norms that replace the backbone's at one site."""

    def among(self, signatures: Sequence[int], x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        """`y`, the backbone's norm of `x`, with the rows of adapters with these signatures replaced by their norms'."""
        ...


class ResidualGroup(NamedTuple):
    """Operations of one kind and order. `members`: their adapters' signatures, as indices in the batch."""

    kind: OperationKind
    order: int
    tables: Tables
    members: tuple[int, ...]


@dataclass(frozen=True)
class ResidualPass:
    """The inputs of all groups at one site. `f`: the sub-layer's output, `x`: its residual input, both (rows, hidden);
    `norm`: the norm after the sum, None in blocks that normalise elsewhere; `of`: gives the segments of some
    signatures; `single`: whether each adapter has only one operation here."""

    kernels: Kernels
    f: Tensor
    x: Tensor
    norm: NormSite | None
    own_norms: OwnNorms | None
    of: Callable[[tuple[int, ...]], Segments]
    single: bool

    @cached_property
    def total(self) -> Tensor:
        """f + x, (rows, hidden)."""
        return self.f + self.x

    @cached_property
    def fused(self) -> FusedRows | None:
        """What computes a sum and its norm in one call; None where torch does, one after the other."""
        fused = self.kernels.fused_rows
        if fused is None or self.norm is None or self.own_norms is not None or torch.is_grad_enabled():
            return None
        module = self.norm.module
        plain = type(module) is nn.LayerNorm and all(own.dtype is self.f.dtype for own in module.parameters())
        return fused if plain and self.f.dtype is self.x.dtype and fused.supports(self.f.dtype) else None

    @property
    def in_place(self) -> bool:
        """Whether an operation may add its output to `f`, which nothing else reads in its rows."""
        return self.single and self.fused is not None

    def normed_sum(self, fused: FusedRows, hidden: Tensor, segments: Segments) -> Tensor:
        """norm(hidden + x) in the segments' rows."""
        assert self.norm is not None
        module = self.norm.module
        return fused.add_norm(hidden, self.x, module.weight, module.bias, module.eps, segments)

    def add(self, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """hidden + x in the members' rows."""
        return self.total if hidden is self.f else in_rows(self.of(members), hidden, lambda r: hidden[r] + self.x[r])

    def join(self, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """norm(hidden + x) in the members' rows, with their own norms where they have some."""
        if self.fused is not None:
            return self.normed_sum(self.fused, hidden, self.of(members))
        total = self.add(hidden, members)
        norm = self.norm
        if norm is None:
            return total
        normed = in_rows(self.of(members), total, lambda rows: norm.plain(total[rows]))
        return normed if self.own_norms is None else self.own_norms.among(members, total, normed, norm)


class ResidualRun(Protocol):
    """Computes the operations of one kind. All tensors are (rows, hidden), and valid in the members' rows only."""

    @property
    def joins(self) -> bool:
        """Whether `finish` gives what joins the residual stream, norm included; else it gives the stream itself."""
        ...

    def step(self, group: ResidualGroup, site: ResidualPass, hidden: Tensor) -> Tensor:
        """The adapters' output for `hidden`, which is `site.f` or the output of the previous operations. It is in
        memory of its own, or with `site.in_place` in that of `site.f`, added to it."""
        ...

    def finish(self, site: ResidualPass, hidden: Tensor, members: tuple[int, ...]) -> Tensor:
        """What takes the sub-layer's place after the last operation of some adapters. `hidden`: their output, which
        may be overwritten; `members`: those adapters' signatures."""
        ...


def join_residual(site: ResidualPass, groups: Sequence[ResidualGroup]) -> Tensor:
    """norm(f + x), with the groups' outputs in their rows; one norm runs over all rows. `site.f` or `site.total` is
    overwritten where no gradients are needed. `groups`: sorted by order."""
    outputs: dict[int, list[tuple[ResidualGroup, Tensor]]] = {}  # by order
    for group in groups:
        previous = outputs.get(group.order - 1, [])
        hidden = _merge_previous(site, group.members, previous) if group.order else site.f
        run: ResidualRun = group.kind.run
        outputs.setdefault(group.order, []).append((group, run.step(group, site, hidden)))
    in_place = not torch.is_grad_enabled()
    totals: list[tuple[slice, Tensor]] = []
    streams: list[tuple[slice, Tensor]] = []
    for order, ran in outputs.items():
        continued = {member for group, _ in outputs.get(order + 1, ()) for member in group.members}
        for group, hidden in ran:
            last = tuple(member for member in group.members if member not in continued)
            if last:
                run = group.kind.run
                out = run.finish(site, hidden, last)
                for rows in site.of(last).runs:
                    if not run.joins:
                        streams.append((rows, out[rows]))
                    elif site.fused is not None:
                        if out is not site.f:
                            site.f[rows] = out[rows]
                    elif in_place:
                        torch.add(out[rows], site.x[rows], out=site.total[rows])
                    else:
                        totals.append((rows, out[rows] + site.x[rows]))
    if site.fused is not None:
        every = Segments([Segment(0, len(site.f), 0)])
        return put_rows(site.normed_sum(site.fused, site.f, every), sorted(streams, key=_first_row))
    total = put_rows(site.total, sorted(totals, key=_first_row))
    return put_rows(total if site.norm is None else site.norm(total), sorted(streams, key=_first_row))


def _first_row(part: tuple[slice, Tensor]) -> int:
    start: int = part[0].start
    return start


def _merge_previous(
    site: ResidualPass, members: tuple[int, ...], previous: Sequence[tuple[ResidualGroup, Tensor]]
) -> Tensor:
    """The outputs of the previous operations of some members, in one tensor."""
    if len(previous) == 1:
        return previous[0][1]
    merged = torch.empty_like(previous[0][1])
    for group, hidden in previous:
        own = tuple(member for member in group.members if member in members)
        for rows in site.of(own).runs:
            merged[rows] = hidden[rows]
    return merged


def in_rows(segments: Segments, like: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
    """A tensor of as many rows as `like` with `make(rows)` in the segments' rows; other rows are undefined."""
    runs = segments.runs
    if len(runs) == 1 and runs[0] == slice(0, len(like)):
        return make(runs[0])
    parts = [make(rows) for rows in runs]
    merged = parts[0].new_empty(len(like), *parts[0].shape[1:])
    for rows, part in zip(runs, parts, strict=True):
        merged[rows] = part
    return merged


def add_rows(segments: Segments, y: Tensor, other: Tensor) -> Tensor:
    """`y` plus `other` in the segments' rows, in place; other rows keep their values."""
    for rows in segments.runs:
        y[rows] += other[rows]
    return y

"""What acts during a pass: for every site one object, made once for each shape of batch.

A shape is which signatures a batch has, not which adapters: these are the slots in the pass's segments.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.sites import Actors, LinearSite, NormSite
from manyhats.kernels.segments import Segment, Segments
from manyhats.methods.base import put_rows, span_slices
from manyhats.methods.operations import OUTPUT_OPERATIONS, OwnMask, OwnRows, PrefixRows
from manyhats.methods.residual import ResidualGroup, ResidualPass, join_residual
from manyhats.methods.signature import Category, Signature
from manyhats.methods.slots import Group, SlotTables

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch


class Member(NamedTuple):
    """A segment of a pass. `signature`: its place among the batch's; `spans`: its sequences' rows in the batch;
    `sequences`: which of the batch these are."""

    segment: Segment
    signature: int
    spans: Sequence[tuple[int, int]]
    sequences: slice


class Pass:
    """The segments of one pass over the backbone, and of some signatures alone where these are asked for."""

    def __init__(self, members: Sequence[Member], batch: PackedBatch | None) -> None:
        self.batch = batch
        self._all = members
        self._some: dict[tuple[int, ...], tuple[Segments, list[slice]]] = {}

    def of(self, signatures: tuple[int, ...]) -> Segments:
        """The segments of adapters with these signatures."""
        return self._of(signatures)[0]

    def sequences(self, signatures: tuple[int, ...]) -> list[slice]:
        """Which sequences of the batch these segments hold."""
        return self._of(signatures)[1]

    def _of(self, signatures: tuple[int, ...]) -> tuple[Segments, list[slice]]:
        found = self._some.get(signatures)
        if found is None:
            own = [member for member in self._all if member.signature in signatures]
            segments = Segments([m.segment for m in own], [m.spans for m in own])
            found = self._some[signatures] = segments, [m.sequences for m in own]
        return found


class Shape:
    """The actors of all batches with the same signatures."""

    def __init__(
        self, tables: SlotTables, signatures: Sequence[Signature], within: Container[str] | None, tokens: bool
    ) -> None:
        self.kernels = tables.kernels
        self._now: Pass | None = None
        groups: dict[tuple[Category, str | int], list[Group]] = {}
        for group in tables.groups(signatures):
            category, site = group.placement.category, group.placement.site
            if within is None or category in ("residual", "states", "key_value") or site in within:
                groups.setdefault((category, site), []).append(group)

        def at(category: Category, site: str | int) -> list[Group]:
            return groups.get((category, site), [])

        def sites(*categories: Category) -> list[str]:
            return list(dict.fromkeys(str(site) for category, site in groups if category in categories))

        self.linear = {
            site: _LinearActor(
                self, at("input", site), at("weight", site), at("output", site), _members(at("weight", site))
            )
            for site in sites("input", "weight", "output")
        }
        self.embedding = {site: _EmbeddingActor(self, at("embedding", site)) for site in sites("embedding")}
        self.norm = {site: _NormActor(self, at("norm", site)) for site in sites("norm")}
        self.residual = {
            site: _ResidualActor(self, [_residual_group(group) for group in at("residual", site)])
            for site in sites("residual")
        }
        self.key_value = {
            int(site): _KeyValueActor(self, own) for (category, site), own in groups.items() if category == "key_value"
        }
        self.states = {site: _StatesActor(self, at("states", site)) for site in sites("states")} if tokens else {}

    @property
    def now(self) -> Pass:
        """The pass under way."""
        assert self._now is not None, "no pass is under way"
        return self._now

    def actors(self, now: Pass) -> Actors:
        """What acts in a pass. One pass at a time."""

        def start() -> None:
            self._now = now

        return Actors(
            linear=self.linear,
            embedding=self.embedding,
            norm=self.norm,
            residual=self.residual,
            key_value=self.key_value,
            states=self.states,
            start=start,
            stop=self._stop,
        )

    def _stop(self) -> None:
        """Holds nothing of the pass any longer: its adapters may have to leave their slots."""
        self._now = None


@dataclass(frozen=True, slots=True)
class _LinearActor:
    """Runs the shared layer on the rows that use it, then lets the methods act on theirs.

    `owners`: the signatures of those with a weight of their own.
    """

    shape: Shape
    input: list[Group]
    weight: list[Group]
    output: list[Group]
    owners: tuple[int, ...]

    def __call__(self, x: Tensor, site: LinearSite) -> Tensor:
        kernels, now = self.shape.kernels, self.shape.now
        read = x
        for group in self.input:
            read = read.clone()
            kernels.scale_add(read, group.tables["values"], now.of(group.members))
        y = self._with_own_weights(read, site) if self.weight else site.product(read)
        for group in self.output:
            run = OUTPUT_OPERATIONS[group.placement.kind].run
            run(kernels, x, y, group.tables, now.of(group.members))
        return y

    def _with_own_weights(self, x: Tensor, site: LinearSite) -> Tensor:
        if torch.is_grad_enabled():
            return self._joined(x, site)
        kernels, now = self.shape.kernels, self.shape.now
        y = x.new_empty(len(x), site.shape[0])
        for rows in gaps(now.of(self.owners).runs, len(x)):
            y[rows] = site.product(x[rows])
        for group in self.weight:
            segments = now.of(group.members)
            if group.placement.kind is OwnMask.kind:
                kernels.masked_linear(x, y, site.weight, site.bias, group.tables["bits"], segments)
            else:
                kernels.linear(x, y, group.tables["layer"], segments)
        return y

    def _joined(self, x: Tensor, site: LinearSite) -> Tensor:
        """With gradients: each run of rows by itself, so that none is written over."""
        layers = [
            (start, stop, group.tables["layer"][slot])
            for group in self.weight
            for start, stop, slot in self.shape.now.of(group.members)
        ]
        pieces = [(start, F.linear(x[start:stop], own.weight, own.bias)) for start, stop, own in layers]
        runs = [slice(start, stop) for start, stop, _ in sorted(layers, key=lambda layer: layer[0])]
        pieces += [(rows.start, site.product(x[rows])) for rows in gaps(runs, len(x))]
        return torch.cat([piece for _, piece in sorted(pieces, key=lambda piece: piece[0])])


def _members(groups: Sequence[Group]) -> tuple[int, ...]:
    """The signatures that take part in any of some groups."""
    return tuple(sorted({member for group in groups for member in group.members}))


def gaps(runs: Sequence[slice], rows: int) -> list[slice]:
    """The rows that none of the runs, which rise, holds."""
    found: list[slice] = []
    done = 0
    for run in [*runs, slice(rows, rows)]:
        if done < run.start:
            found.append(slice(done, run.start))
        done = run.stop
    return found


@dataclass(frozen=True, slots=True)
class _EmbeddingActor:
    """Looks all rows up in the backbone's table, then lets each segment make its own."""

    shape: Shape
    groups: list[Group]

    def __call__(self, ids: Tensor, y: Tensor) -> Tensor:
        for group in self.groups:  # two parts of one adapter act one after the other
            segments = self.shape.now.of(group.members)
            if group.placement.kind is OwnRows.kind:
                y = y.clone() if torch.is_grad_enabled() else y
                self.shape.kernels.lookup(ids, y, group.tables["rows"], segments)
                continue
            pieces = []
            for segment, spans in zip(segments, segments.spans, strict=True):
                rows = slice(segment.start, segment.stop)
                act = group.tables["act"][segment.slot]
                pieces.append((rows, act(ids[rows], y[rows], span_slices(spans, segment.start))))
            y = put_rows(y, pieces)
        return y


@dataclass(frozen=True, slots=True)
class _NormActor:
    """Gives the rows of segments that bring a norm of their own what it makes of them."""

    shape: Shape
    groups: list[Group]

    def __call__(self, x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        for group in self.groups:
            y = self._own(x, y, site, group, self.shape.now.of(group.members))
        return y

    def among(self, signatures: Sequence[int], x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        """The same for the adapters with some signatures alone."""
        for group in self.groups:
            members = tuple(member for member in group.members if member in signatures)
            if members:
                y = self._own(x, y, site, group, self.shape.now.of(members))
        return y

    def _own(self, x: Tensor, y: Tensor, site: NormSite, group: Group, segments: Segments) -> Tensor:
        runs = segments.runs
        normalised = x.new_empty(x.shape, dtype=torch.float32)
        for rows in runs:
            normalised[rows] = site.normalised(x[rows])
        self.shape.kernels.scale_add(normalised, group.tables["values"], segments)
        return put_rows(y, [(rows, normalised[rows].to(y.dtype)) for rows in runs])


@dataclass(frozen=True, slots=True)
class _ResidualActor:
    """Joins all rows as the backbone does, then replaces the rows of the segments where a method acts."""

    shape: Shape
    groups: list[ResidualGroup]

    def __call__(self, f: Tensor, x: Tensor, norm: NormSite | None) -> Tensor:
        joined = f + x if norm is None else norm(f + x)
        own_norms = None if norm is None else self.shape.norm.get(norm.name)
        site = ResidualPass(self.shape.kernels, f, x, joined, norm, own_norms, self.shape.now.of)
        return join_residual(site, self.groups)


def _residual_group(group: Group) -> ResidualGroup:
    return ResidualGroup(group.placement.kind, group.placement.stage, group.tables, group.members)


@dataclass(frozen=True, slots=True)
class _StatesActor:
    """Lets each segment change its rows of the residual stream."""

    shape: Shape
    groups: list[Group]

    def __call__(self, states: Tensor) -> Tensor:
        now = self.shape.now
        assert now.batch is not None
        for group in self.groups:
            segments = now.of(group.members)
            sequences = now.sequences(group.members)
            for segment, spans, own in zip(segments, segments.spans, sequences, strict=True):
                rows = slice(segment.start, segment.stop)
                act = group.tables["act"][segment.slot]
                new = act(states[rows], span_slices(spans, segment.start), now.batch, own)
                states = put_rows(states, [(rows, new)])
        return states


@dataclass(frozen=True, slots=True)
class _KeyValueActor:
    """Puts the prefixes of all segments behind the tokens' keys and values, in the order of the segments."""

    shape: Shape
    groups: list[Group]

    def __call__(self, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        found: list[tuple[int, Tensor, Tensor]] = []
        for group in self.groups:
            segments = self.shape.now.of(group.members)
            if group.placement.kind is PrefixRows.kind:
                entries: list[Any] = group.tables["rows"].entries
                found += [(segment.start, *entries[segment.slot]) for segment in segments]
                continue
            for segment, spans in zip(segments, segments.spans, strict=True):
                act = group.tables["act"][segment.slot]
                rows = act(hidden[segment.start : segment.stop], span_slices(spans, segment.start))
                found.append((segment.start, *rows))
        found.sort(key=itemgetter(0))  # of one segment by stage, as they came
        return torch.cat([keys, *[k for _, k, _ in found]]), torch.cat([values, *[v for _, _, v in found]])

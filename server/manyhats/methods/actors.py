"""The actors of a pass: for each site one object that runs the operations of all adapters of a batch there.

They depend on the signatures in a batch only, and are made once for each combination of signatures. Which adapters take
part is given by the slots in the segments of the current pass.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.sites import Actors, LinearSite, NormSite
from manyhats.kernels.segments import FixedSegments, NotCapturable, Segment, Segments, Table
from manyhats.methods.base import put_rows, relative_slices
from manyhats.methods.joined_actor import JoinedActor, joined_actor
from manyhats.methods.operations import OwnMask, OwnRows, PrefixRows, StatesPass
from manyhats.methods.residual import ResidualGroup, ResidualPass, combinations, join_residual
from manyhats.methods.signature import Category, Signature
from manyhats.methods.slots import Group, SlotTables

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch, StagingBuffer


class PassSegment(NamedTuple):
    """A segment of a pass. `signature`: the index of its adapter's signature in the batch; `sequence_ranges`: the
    rows (start, stop) of its sequences; `sequences`: their indices in the batch."""

    segment: Segment
    signature: int
    sequence_ranges: Sequence[tuple[int, int]]
    sequences: slice


class Pass:
    """The segments of one pass over the backbone, selected by signature. `batch`: None for a pass over one row for each
    sequence."""

    fixed = False  # see `FixedPass`

    def __init__(self, members: Sequence[PassSegment], batch: PackedBatch | None) -> None:
        self.batch = batch
        self._segments = members
        self._by_signatures: dict[tuple[int, ...], tuple[Segments, list[slice]]] = {}

    def of(self, signatures: tuple[int, ...]) -> Segments:
        """The segments of the adapters with these signatures."""
        return self._of(signatures)[0]

    def sequences(self, signatures: tuple[int, ...]) -> list[slice]:
        """The sequences of each of these segments, as indices in the batch."""
        return self._of(signatures)[1]

    def _of(self, signatures: tuple[int, ...]) -> tuple[Segments, list[slice]]:
        found = self._by_signatures.get(signatures)
        if found is None:
            own = [member for member in self._segments if member.signature in signatures]
            segments = Segments([m.segment for m in own], [m.sequence_ranges for m in own])
            found = self._by_signatures[signatures] = segments, [m.sequences for m in own]
        return found


class FixedPass(Pass):
    """A pass whose launches are captured: `segments` stand for those of some signatures in whatever pass they are
    launched for. Others raise NotCapturable."""

    fixed = True

    def __init__(self, segments: Mapping[tuple[int, ...], FixedSegments]) -> None:
        super().__init__((), None)
        self._fixed = segments

    def _of(self, signatures: tuple[int, ...]) -> tuple[Segments, list[slice]]:
        try:
            return self._fixed[signatures], []
        except KeyError:
            raise NotCapturable(f"the segments of the signatures {signatures} are not on the device") from None


class ActorSet:
    """The actors for all batches with the same signatures.

    `within`: the linear, embedding and norm sites of the pass; None: all. `tokens`: whether the pass is over all
    tokens. `shared`: the names of the linear layers that read the same rows.
    """

    def __init__(
        self,
        tables: SlotTables,
        signatures: Sequence[Signature],
        within: Container[str] | None,
        tokens: bool,
        shared: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.kernels = tables.kernels
        self._current_pass: Pass | None = None
        groups: dict[tuple[Category, str | int], list[Group]] = {}
        for group in tables.groups(signatures):
            category, site = group.placement.category, group.placement.site
            if within is None or category in ("residual", "states", "key_value") or site in within:
                groups.setdefault((category, site), []).append(group)
        self._groups = [group for own in groups.values() for group in own]

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
        self.joined: dict[tuple[str, ...], JoinedActor] = {}
        for names in shared:
            joined = joined_actor(self.kernels, [at("output", name) for name in names], self._segments_of)
            if joined is not None:
                self.joined[names] = joined
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

    def stage(self, segments: Pass, staging: StagingBuffer, device: torch.device) -> None:
        """Puts what the kernels need for a pass into its staging buffer."""
        stage = self.kernels.stage
        if stage is not None and self._groups:
            stage([segments.of(members) for members in self.combinations], self.tables, staging, device)

    @cached_property
    def tables(self) -> list[Table[Any]]:
        """All tables of the pass."""
        return [table for group in self._groups for table in group.tables.values()]

    @cached_property
    def combinations(self) -> list[tuple[int, ...]]:
        """The signatures whose segments a call may ask for."""
        norms = [group.members for group in self._groups if group.placement.category == "norm"]
        residual = [group.members for group in self._groups if group.placement.category == "residual"]
        among = [tuple(m for m in own if m in some) for own in set(norms) for some in set(residual)]
        joined = [members for actor in self.joined.values() for members in actor.members]
        every = [*(group.members for group in self._groups), *among, *joined]
        for actor in self.residual.values():
            every += combinations(actor.groups)
        return [members for members in dict.fromkeys(every) if members]

    @property
    def current(self) -> Pass:
        """The running pass."""
        assert self._current_pass is not None, "no pass is running"
        return self._current_pass

    def _segments_of(self, signatures: tuple[int, ...]) -> Segments:
        return self.current.of(signatures)

    def actors(self, segments: Pass) -> Actors:
        """The actors for one pass. Only one pass may run at a time."""

        def start() -> None:
            self._current_pass = segments

        return Actors(
            linear=self.linear,
            joined=self.joined,
            embedding=self.embedding,
            norm=self.norm,
            residual=self.residual,
            key_value=self.key_value,
            states=self.states,
            start=start,
            stop=self._stop,
        )

    def _stop(self) -> None:
        """Drops the pass, whose references would keep the slots of its adapters occupied."""
        self._current_pass = None


@dataclass(frozen=True, slots=True)
class _LinearActor:
    """Runs the backbone's linear layer on the rows that use its weight, then the operations of all adapters.

    `owners`: the signatures of the adapters that replace its weight.
    """

    actor_set: ActorSet
    input: list[Group]
    weight: list[Group]
    output: list[Group]
    owners: tuple[int, ...]

    def __call__(self, x: Tensor, site: LinearSite) -> Tensor:
        y = self.product(x, site)
        self.change(x, y)
        return y

    def product(self, x: Tensor, site: LinearSite) -> Tensor:
        """See `backbone.sites.LinearActor`."""
        kernels, current = self.actor_set.kernels, self.actor_set.current
        for group in self.input:
            x = x.clone()
            kernels.scale_add(x, group.tables["values"], current.of(group.members))
        return self._with_own_weights(x, site) if self.weight else site.product(x)

    @property
    def keeps_product(self) -> bool:
        """See `backbone.sites.LinearActor`."""
        return not self.input and not self.weight

    def change(self, x: Tensor, y: Tensor) -> None:
        """See `backbone.sites.LinearActor`."""
        kernels, current = self.actor_set.kernels, self.actor_set.current
        for group in self.output:
            group.placement.kind.run(kernels, x, y, group.tables, current.of(group.members))

    def _with_own_weights(self, x: Tensor, site: LinearSite) -> Tensor:
        if torch.is_grad_enabled():
            return self._concatenated(x, site)
        kernels, current = self.actor_set.kernels, self.actor_set.current
        if current.fixed:
            y = site.product(x)
        else:
            y = x.new_empty(len(x), site.shape[0])
            for rows in gaps(current.of(self.owners).runs, len(x)):
                site.product_into(x[rows], y[rows])
        for group in self.weight:
            segments = current.of(group.members)
            if group.placement.kind is OwnMask.kind:
                kernels.masked_linear(x, y, site.weight, site.bias, group.tables["bits"], segments)
            else:
                kernels.linear(x, y, group.tables["layer"], segments)
        return y

    def _concatenated(self, x: Tensor, site: LinearSite) -> Tensor:
        """With gradients, the outputs are concatenated, because tensors that autograd needs must not be overwritten."""
        layers = [
            (start, stop, group.tables["layer"][slot])
            for group in self.weight
            for start, stop, slot in self.actor_set.current.of(group.members)
        ]
        chunks = [(start, F.linear(x[start:stop], own.weight, own.bias)) for start, stop, own in layers]
        runs = [slice(start, stop) for start, stop, _ in sorted(layers, key=lambda layer: layer[0])]
        chunks += [(rows.start, site.product(x[rows])) for rows in gaps(runs, len(x))]
        return torch.cat([chunk for _, chunk in sorted(chunks, key=lambda chunk: chunk[0])])


def _members(groups: Sequence[Group]) -> tuple[int, ...]:
    """The signatures of all members of some groups."""
    return tuple(sorted({member for group in groups for member in group.members}))


def gaps(runs: Sequence[slice], rows: int) -> list[slice]:
    """The rows outside the given slices, out of `rows` rows. `runs`: in rising order."""
    found: list[slice] = []
    end = 0
    for run in [*runs, slice(rows, rows)]:
        if end < run.start:
            found.append(slice(end, run.start))
        end = run.stop
    return found


@dataclass(frozen=True, slots=True)
class _EmbeddingActor:
    """Replaces embeddings: rows from adapters' tables in one call, then other steps segment by segment."""

    actor_set: ActorSet
    groups: list[Group]

    def __call__(self, ids: Tensor, y: Tensor) -> Tensor:
        for group in self.groups:  # in order: a second component of an adapter changes the result of its first
            segments = self.actor_set.current.of(group.members)
            if group.placement.kind is OwnRows.kind:
                y = y.clone() if torch.is_grad_enabled() else y
                self.actor_set.kernels.lookup(ids, y, group.tables["rows"], segments)
                continue
            chunks = []
            for segment, ranges in zip(segments, segments.sequence_ranges, strict=True):
                rows = slice(segment.start, segment.stop)
                step = group.tables["act"][segment.slot]
                chunks.append((rows, step(ids[rows], y[rows], relative_slices(ranges, segment.start))))
            y = put_rows(y, chunks)
        return y


@dataclass(frozen=True, slots=True)
class _NormActor:
    """Recomputes the rows of the adapters that replace a norm's weights."""

    actor_set: ActorSet
    groups: list[Group]

    def __call__(self, x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        for group in self.groups:
            y = self._apply(x, y, site, group, self.actor_set.current.of(group.members))
        return y

    def among(self, signatures: Sequence[int], x: Tensor, y: Tensor, site: NormSite) -> Tensor:
        """The same, only for the adapters with these signatures."""
        for group in self.groups:
            members = tuple(member for member in group.members if member in signatures)
            if members:
                y = self._apply(x, y, site, group, self.actor_set.current.of(members))
        return y

    def _apply(self, x: Tensor, y: Tensor, site: NormSite, group: Group, segments: Segments) -> Tensor:
        if segments.fixed:
            whole = site.normalised(x)
            self.actor_set.kernels.scale_add(whole, group.tables["values"], segments)
            segments.copy_rows(whole, y)
            return y
        runs = segments.runs
        normalised = x.new_empty(x.shape, dtype=torch.float32)
        for rows in runs:
            normalised[rows] = site.normalised(x[rows])
        self.actor_set.kernels.scale_add(normalised, group.tables["values"], segments)
        return put_rows(y, [(rows, normalised[rows].to(y.dtype)) for rows in runs])


@dataclass(frozen=True, slots=True)
class _ResidualActor:
    """Joins all rows with the residual stream, in place of the sub-layer's output that of adapters where they act."""

    actor_set: ActorSet
    groups: list[ResidualGroup]

    def __call__(self, f: Tensor, x: Tensor, norm: NormSite | None) -> Tensor:
        own_norms = None if norm is None else self.actor_set.norm.get(norm.name)
        single = not any(group.order for group in self.groups)
        site = ResidualPass(self.actor_set.kernels, f, x, norm, own_norms, self.actor_set.current.of, single)
        return join_residual(site, self.groups)


def _residual_group(group: Group) -> ResidualGroup:
    return ResidualGroup(group.placement.kind, group.placement.order, group.tables, group.members)


@dataclass(frozen=True, slots=True)
class _StatesActor:
    """Changes the residual stream as a whole: by operations of all segments together, or by steps, segment by
    segment."""

    actor_set: ActorSet
    groups: list[Group]

    def __call__(self, states: Tensor) -> Tensor:
        current = self.actor_set.current
        assert current.batch is not None
        for group in self.groups:
            segments = current.of(group.members)
            sequences = current.sequences(group.members)
            run = group.placement.kind.run
            if run is not None:
                kernels = self.actor_set.kernels
                states = run(StatesPass(kernels, states, group.tables, segments, sequences, current.batch))
                continue
            for segment, ranges, own in zip(segments, segments.sequence_ranges, sequences, strict=True):
                rows = slice(segment.start, segment.stop)
                step = group.tables["act"][segment.slot]
                new = step(states[rows], relative_slices(ranges, segment.start), current.batch, own)
                states = put_rows(states, [(rows, new)])
        return states


@dataclass(frozen=True, slots=True)
class _KeyValueActor:
    """Appends the prefixes of all segments to the tokens' keys and values, in the order of the segments."""

    actor_set: ActorSet
    groups: list[Group]

    def __call__(self, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        found: list[tuple[int, Tensor, Tensor]] = []
        for group in self.groups:
            segments = self.actor_set.current.of(group.members)
            if group.placement.kind is PrefixRows.kind:
                entries: list[Any] = group.tables["rows"].entries
                found += [(segment.start, *entries[segment.slot]) for segment in segments]
                continue
            for segment, ranges in zip(segments, segments.sequence_ranges, strict=True):
                step = group.tables["act"][segment.slot]
                rows = step(hidden[segment.start : segment.stop], relative_slices(ranges, segment.start))
                found.append((segment.start, *rows))
        found.sort(key=itemgetter(0))  # a stable sort: several prefixes of a segment keep their order
        return torch.cat([keys, *[k for _, k, _ in found]]), torch.cat([values, *[v for _, _, v in found]])

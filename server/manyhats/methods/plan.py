"""Lets the adapters of a packed batch act, each on its own segment's rows.

A plan turns "segment i belongs to adapter a" into the backbone's actors: for every site one callable that runs the
shared module once and gives each method all of its segments together.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.sites import Actors, LinearSite, NormSite
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.base import Act, Acts, EmbeddingStep, KeyValueStep, Method, Norm, ResidualStep, Spans, StatesStep

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive sequences of a batch that belong to one adapter."""

    adapter: BoundAdapter
    sequences: slice


class Place(NamedTuple):
    """Where a segment's rows are. `spans`: each sequence's, counted from the segment's first."""

    rows: slice
    spans: Spans


def batch_order(adapter: BoundAdapter) -> int:
    """Segments sort by this: those with weights of their own stand last, so that the shared layer runs once."""
    return 1 if adapter.own_weight else 0


def in_batch_order(items: Iterable[T], adapter: Callable[[T], BoundAdapter]) -> list[T]:
    """Items of one adapter side by side, in the order of `batch_order`; else as they come."""
    known = list(items)
    seen = {id(adapter(item)): i for i, item in reversed(list(enumerate(known)))}
    return sorted(known, key=lambda item: (batch_order(adapter(item)), seen[id(adapter(item))]))


class Plan:
    """The actors for one batch. `segments` cover its sequences in order."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self.prefixes: list[tuple[int, int]] = []  # by sequence: rows among the batch's prefix rows
        self.left_out: list[frozenset[int]] = []  # by sequence: layers at which it does not see its prefix
        self.shifts: list[int] = []  # by sequence: how far its positions move on
        self.virtual: list[int] = []  # by sequence: virtual tokens before its own
        row = 0
        for segment in segments:
            count = segment.sequences.stop - segment.sequences.start
            adapter = segment.adapter
            length = adapter.prefix_rows
            step = length if adapter.prefix_each else 0
            self.prefixes += [(row + i * step, row + i * step + length) for i in range(count)]
            row += count * step if adapter.prefix_each else length
            self.left_out += [adapter.prefix_left_out] * count
            self.shifts += [adapter.position_shift] * count
            self.virtual += [adapter.virtual_tokens] * count

    def token_actors(self, batch: PackedBatch) -> Actors:
        """For a pass over all tokens."""
        places = []
        for segment in self.segments:
            rows = batch.rows(segment.sequences)
            spans = batch.spans(segment.sequences)
            places.append(Place(rows, [slice(s.start - rows.start, s.stop - rows.start) for s in spans]))
        return _actors(self.segments, places, batch)

    def sequence_actors(
        self, segments: Sequence[Segment] | None = None, within: Container[str] | None = None
    ) -> Actors:
        """For a pass over one row per sequence (pooler, language-model head); of all segments, or of some alone.

        `within`: the sites that the pass meets; None for all.
        """
        chosen = self.segments if segments is None else segments
        places: list[Place] = []
        row = 0
        for segment in chosen:
            count = segment.sequences.stop - segment.sequences.start
            places.append(Place(slice(row, row + count), [slice(i, i + 1) for i in range(count)]))
            row += count
        return _actors(chosen, places, None, within)


def _actors(
    segments: Sequence[Segment],
    places: Sequence[Place],
    batch: PackedBatch | None,
    within: Container[str] | None = None,
) -> Actors:
    """What acts at every site, of all segments. `batch`: in a pass over all tokens."""
    linear: dict[str, _LinearActor] = {}
    embedding: dict[str, _EmbeddingActor] = {}
    norms: dict[str, _NormActor] = {}
    residual: dict[str, _ResidualActor] = {}
    key_value: dict[int, _KeyValueActor] = {}
    states: dict[str, _StatesActor] = {}
    for segment, where in zip(segments, places, strict=True):
        for index, (method, bound) in enumerate(segment.adapter.parts):
            if within is not None and not any(site in within for site in (*bound.weight, *bound.linear, *bound.norm)):
                continue
            for site, own in bound.weight.items():
                linear.setdefault(site, _LinearActor()).add_weight(where.rows, own)
            for site, weights in bound.linear.items():
                linear.setdefault(site, _LinearActor()).add(index, method, Act(where.rows, weights, where.spans))
            for site, look_up in bound.embedding.items():
                embedding.setdefault(site, _EmbeddingActor()).add(where, look_up)
            for site, norm in bound.norm.items():
                norms.setdefault(site, _NormActor()).add(where.rows, norm)
            for site, step in bound.residual.items():
                residual.setdefault(site, _ResidualActor(norms)).add(where, step)
            for layer, rows in bound.key_value.items():
                key_value.setdefault(layer, _KeyValueActor()).add(where, rows)
            if batch is not None:
                for site, change in bound.states.items():
                    states.setdefault(site, _StatesActor(batch)).add(where, change, segment.sequences)
    return Actors(linear=linear, embedding=embedding, norm=norms, residual=residual, key_value=key_value, states=states)


def _put(y: Tensor, pieces: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """`y` with some runs of rows, in rising order, put in their places."""
    if not torch.is_grad_enabled():
        for rows, new in pieces:
            y[rows] = new
        return y
    whole: list[Tensor] = []  # the old rows may be needed for the gradient
    done = 0
    for rows, new in pieces:
        whole += [y[done : rows.start], new]
        done = rows.stop
    return torch.cat([*whole, y[done:]])


class _LinearActor:
    """Runs the shared layer on the rows that use it, then lets the methods act on theirs."""

    def __init__(self) -> None:
        self._own: list[tuple[slice, Tensor]] = []  # in batch order
        self._acts: dict[tuple[int, Method], Acts] = {}  # by the part's place in its adapter

    def add_weight(self, rows: slice, weight: Tensor) -> None:
        self._own.append((rows, weight))

    def add(self, index: int, method: Method, act: Act) -> None:
        self._acts.setdefault((index, method), Acts()).append(act)

    def __call__(self, x: Tensor, site: LinearSite) -> Tensor:
        read = x
        for (_, method), acts in self._acts.items():
            read = method.before_linear(read, acts)
        y = self._with_own_weights(read, site) if self._own else site.product(read)
        for (_, method), acts in self._acts.items():
            method.after_linear(x, y, acts, site)
        return y

    def _with_own_weights(self, x: Tensor, site: LinearSite) -> Tensor:
        pieces: list[tuple[slice, Tensor | None]] = []  # None: the shared weight
        done = 0
        for rows, own in self._own:
            if done < rows.start:
                pieces.append((slice(done, rows.start), None))
            pieces.append((rows, own))
            done = rows.stop
        if done < len(x):
            pieces.append((slice(done, len(x)), None))
        bias = site.bias
        if torch.is_grad_enabled() or bias is None:
            return torch.cat([site.product(x[rows]) if w is None else F.linear(x[rows], w, bias) for rows, w in pieces])
        y = x.new_empty(len(x), site.weight.shape[0])
        for rows, w in pieces:
            if w is None:
                y[rows] = site.product(x[rows])
            else:
                torch.addmm(bias, x[rows], w.T, out=y[rows])
        return y


class _EmbeddingActor:
    """Looks all rows up in the backbone's table, then lets each segment make its own."""

    def __init__(self) -> None:
        self._steps: list[tuple[Place, EmbeddingStep]] = []  # in batch order

    def add(self, where: Place, step: EmbeddingStep) -> None:
        self._steps.append((where, step))

    def __call__(self, ids: Tensor, y: Tensor) -> Tensor:
        for where, step in self._steps:  # two parts of one adapter act one after the other
            y = _put(y, [(where.rows, step(ids[where.rows], y[where.rows], where.spans))])
        return y


class _NormActor:
    """Norms all rows as the backbone does, then those of segments that bring a norm of their own."""

    def __init__(self) -> None:
        self._norms: list[tuple[slice, Norm]] = []  # in batch order

    def add(self, rows: slice, norm: Norm) -> None:
        self._norms.append((rows, norm))

    def of(self, rows: slice) -> Norm | None:
        """A segment's own norm."""
        return next((norm for own, norm in self._norms if own == rows), None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return _put(y, [(rows, norm(x[rows])) for rows, norm in self._norms])


class _ResidualActor:
    """Joins all rows as the backbone does, then replaces the rows of the segments where a method acts."""

    def __init__(self, norms: dict[str, _NormActor]) -> None:
        self._steps: list[tuple[Place, list[ResidualStep]]] = []  # in batch order
        self._norms = norms

    def add(self, where: Place, step: ResidualStep) -> None:
        if self._steps and self._steps[-1][0].rows == where.rows:
            self._steps[-1][1].append(step)
        else:
            self._steps.append((where, [step]))

    def __call__(self, f: Tensor, x: Tensor, norm: NormSite | None) -> Tensor:
        joined = f + x if norm is None else norm(f + x)
        pieces: list[tuple[slice, Tensor]] = []
        for (rows, spans), steps in self._steps:
            own = self._norm_for(norm, rows)
            hidden = segment_f = f[rows]
            for step in steps:
                hidden = step.step(hidden, segment_f, x[rows], own, joined[rows], spans)
            pieces.append((rows, steps[-1].finish(hidden, segment_f, x[rows], own)))
        return _put(joined, pieces)

    def _norm_for(self, norm: NormSite | None, rows: slice) -> Norm | None:
        """The norm that a segment's rows go through: its own, or the backbone's."""
        if norm is None:
            return None
        actor = self._norms.get(norm.name)
        own = actor.of(rows) if actor else None
        return own or norm.plain


class _StatesActor:
    """Lets each segment change its rows of the residual stream."""

    def __init__(self, batch: PackedBatch) -> None:
        self._batch = batch
        self._steps: list[tuple[Place, StatesStep, slice]] = []

    def add(self, where: Place, step: StatesStep, sequences: slice) -> None:
        self._steps.append((where, step, sequences))

    def __call__(self, states: Tensor) -> Tensor:
        for where, step, sequences in self._steps:
            new = step(states[where.rows], where.spans, self._batch, sequences)
            states = _put(states, [(where.rows, new)])
        return states


class _KeyValueActor:
    """Puts the prefixes of all segments behind the tokens' keys and values."""

    def __init__(self) -> None:
        self._steps: list[tuple[Place, KeyValueStep]] = []

    def add(self, where: Place, step: KeyValueStep) -> None:
        self._steps.append((where, step))

    def __call__(self, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        rows = [step(hidden[where.rows], where.spans) for where, step in self._steps]
        return torch.cat([keys, *(k for k, _ in rows)]), torch.cat([values, *(v for _, v in rows)])


def segments_of(adapters: Sequence[BoundAdapter]) -> list[Segment]:
    """Segments for sequences that are already in batch order. `adapters`: one for each sequence."""
    segments: list[Segment] = []
    start = 0
    for i in range(1, len(adapters) + 1):
        if i == len(adapters) or adapters[i] is not adapters[start]:
            segments.append(Segment(adapters[start], slice(start, i)))
            start = i
    return segments

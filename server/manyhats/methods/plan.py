"""Lets the adapters of a packed batch act, each on its own segment's rows.

A plan turns "these sequences belong to that adapter" into the backbone's actors: for every site one object that runs
the shared module once and does what all segments need in one call for each kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from manyhats.backbone.sites import Actors
from manyhats.kernels.segments import Segment as Rows
from manyhats.methods.actors import Member, Pass, Shape
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.signature import Signature
from manyhats.methods.slots import SlotTables, slot_tables

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive sequences of a batch that belong to one adapter."""

    adapter: BoundAdapter
    sequences: slice


def in_batch_order(items: Iterable[T], adapter: Callable[[T], BoundAdapter]) -> list[T]:
    """Items of one adapter side by side, and adapters that act alike side by side; else as they come.

    Those with weights of their own stand last, so that the shared layers run once over all others.
    """
    known = list(items)
    seen: dict[int, int] = {}
    alike: dict[Signature, int] = {}
    for i, item in enumerate(known):
        one = adapter(item)
        seen.setdefault(id(one), i)
        alike.setdefault(one.signature, i)

    def order(item: T) -> tuple[bool, int, int]:
        one = adapter(item)
        return one.signature.own_weight, alike[one.signature], seen[id(one)]

    return sorted(known, key=order)


class Plan:
    """The actors for one batch. `segments` cover its sequences in order."""

    def __init__(self, backbone: Backbone, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self._tables: SlotTables = slot_tables(backbone)
        self.prefixes: list[tuple[int, int]] = []  # by sequence: rows among the batch's prefix rows
        self.left_out: list[frozenset[int]] = []  # by sequence: layers at which it does not see its prefix
        self.position_offsets: list[int] = []  # by sequence: how far its positions move on
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
            self.position_offsets += [adapter.position_offset] * count
            self.virtual += [adapter.virtual_tokens] * count

    def token_actors(self, batch: PackedBatch) -> Actors:
        """For a pass over all tokens."""
        rows, spans = [], []
        for segment in self.segments:
            own = batch.rows(segment.sequences)
            rows.append((own.start, own.stop))
            spans.append([(span.start, span.stop) for span in batch.spans(segment.sequences)])
        return self._actors(self.segments, rows, spans, batch, None)

    def sequence_actors(self, segments: Sequence[Segment] | None = None, within: Iterable[str] | None = None) -> Actors:
        """For a pass over one row per sequence (pooler, language-model head); of all segments, or of some alone.

        `within`: the sites that the pass meets; None for all.
        """
        chosen = self.segments if segments is None else segments
        rows, spans = [], []
        row = 0
        for segment in chosen:
            count = segment.sequences.stop - segment.sequences.start
            rows.append((row, row + count))
            spans.append([(i, i + 1) for i in range(row, row + count)])
            row += count
        return self._actors(chosen, rows, spans, None, None if within is None else frozenset(within))

    def _actors(
        self,
        segments: Sequence[Segment],
        rows: Sequence[tuple[int, int]],
        spans: Sequence[Sequence[tuple[int, int]]],
        batch: PackedBatch | None,
        within: frozenset[str] | None,
    ) -> Actors:
        places: dict[Signature, int] = {}
        members = [
            Member(
                Rows(*own, self._tables.slot_of(segment.adapter)),
                places.setdefault(segment.adapter.signature, len(places)),
                inner,
                segment.sequences,
            )
            for segment, own, inner in zip(segments, rows, spans, strict=True)
        ]
        signatures = tuple(places)
        key: Hashable = signatures, within, batch is not None
        shape = self._tables.kept(key, lambda: Shape(self._tables, signatures, within, batch is not None))
        return shape.actors(Pass(members, batch))


def segments_of(adapters: Sequence[BoundAdapter]) -> list[Segment]:
    """Segments for sequences that are already in batch order. `adapters`: one for each sequence."""
    segments: list[Segment] = []
    start = 0
    for i in range(1, len(adapters) + 1):
        if i == len(adapters) or adapters[i] is not adapters[start]:
            segments.append(Segment(adapters[start], slice(start, i)))
            start = i
    return segments

"""The plan of a packed batch: from the adapter of each sequence to the actors at the backbone's sites.

At each site one actor runs the backbone's module once, and the operations of all adapters in one call for each kind of
operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from manyhats.backbone.sites import Actors
from manyhats.kernels.segments import Segment
from manyhats.methods.actors import ActorSet, Pass, PassSegment
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.signature import Signature
from manyhats.methods.slots import SlotTables, slot_tables

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch, StagingBuffer


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AdapterSegment:
    """Consecutive sequences of a batch that belong to one adapter."""

    adapter: BoundAdapter
    sequences: slice


def in_batch_order(items: Iterable[T], adapter: Callable[[T], BoundAdapter]) -> list[T]:
    """Sorts items so that those of one adapter, and adapters of one signature, are adjacent; else in the given order.

    Adapters that replace weights are last, so that the backbone's own layers run once over all other rows.
    """
    unsorted = list(items)
    first_of_adapter: dict[int, int] = {}
    first_of_signature: dict[Signature, int] = {}
    for i, item in enumerate(unsorted):
        one = adapter(item)
        first_of_adapter.setdefault(id(one), i)
        first_of_signature.setdefault(one.signature, i)

    def order(item: T) -> tuple[bool, int, int]:
        one = adapter(item)
        return one.signature.own_weight, first_of_signature[one.signature], first_of_adapter[id(one)]

    return sorted(unsorted, key=order)


class Plan:
    """What a batch's adapters need: actors, prefixes, positions. `segments`: all sequences of the batch, in order."""

    def __init__(self, backbone: Backbone, segments: Sequence[AdapterSegment]) -> None:
        self.segments = segments
        self._device = backbone.device
        self._tables: SlotTables = slot_tables(backbone)
        self._shared = backbone.shared
        self.prefixes: list[tuple[int, int]] = []  # by sequence: its rows (start, stop) among the batch's prefix rows
        self.left_out: list[frozenset[int]] = []  # by sequence: layers at which it does not attend to its prefix
        self.position_offsets: list[int] = []  # by sequence: what is added to its positions
        self.virtual: list[int] = []  # by sequence: virtual tokens before its own
        row = 0
        for segment in segments:
            count = segment.sequences.stop - segment.sequences.start
            adapter = segment.adapter
            adapter.arrive()
            length = adapter.prefix_rows
            step = length if adapter.prefix_each else 0
            self.prefixes += [(row + i * step, row + i * step + length) for i in range(count)]
            row += count * step if adapter.prefix_each else length
            self.left_out += [adapter.prefix_left_out] * count
            self.position_offsets += [adapter.position_offset] * count
            self.virtual += [adapter.virtual_tokens] * count

    @property
    def own_weight(self) -> bool:
        """Whether some adapter replaces weights of linear layers, so that products have the rows of these alone."""
        return any(segment.adapter.signature.own_weight for segment in self.segments)

    def token_actors(self, batch: PackedBatch) -> Actors:
        """The actors for a pass over all tokens. What they need on the device is put into the batch's staging buffer,
        which must not have been committed."""
        rows, ranges = [], []
        for segment in self.segments:
            own = batch.rows(segment.sequences)
            rows.append((own.start, own.stop))
            ranges.append([(each.start, each.stop) for each in batch.sequence_rows(segment.sequences)])
        return self._actors(self.segments, rows, ranges, batch, None, batch.staging)

    def sequence_actors(
        self,
        segments: Sequence[AdapterSegment] | None = None,
        within: Iterable[str] | None = None,
        staging: StagingBuffer | None = None,
    ) -> Actors:
        """The actors for a pass over one row for each sequence (pooler, language-model head).

        `segments`: None: all of the plan's. `within`: the sites of the pass; None: all. `staging`: where what they need
        on the device is put, before it is committed; None: they copy it when they run.
        """
        selected = self.segments if segments is None else segments
        rows, ranges = [], []
        row = 0
        for segment in selected:
            count = segment.sequences.stop - segment.sequences.start
            rows.append((row, row + count))
            ranges.append([(i, i + 1) for i in range(row, row + count)])
            row += count
        return self._actors(selected, rows, ranges, None, None if within is None else frozenset(within), staging)

    def _actors(
        self,
        segments: Sequence[AdapterSegment],
        rows: Sequence[tuple[int, int]],
        ranges: Sequence[Sequence[tuple[int, int]]],
        batch: PackedBatch | None,
        within: frozenset[str] | None,
        staging: StagingBuffer | None,
    ) -> Actors:
        signature_indices: dict[Signature, int] = {}
        members = [
            PassSegment(
                Segment(*own, self._tables.slot_of(segment.adapter)),
                signature_indices.setdefault(segment.adapter.signature, len(signature_indices)),
                inner,
                segment.sequences,
            )
            for segment, own, inner in zip(segments, rows, ranges, strict=True)
        ]
        signatures = tuple(signature_indices)
        key: Hashable = signatures, within, batch is not None
        actor_set = self._tables.cached(
            key, lambda: ActorSet(self._tables, signatures, within, batch is not None, self._shared)
        )
        segments_of_pass = Pass(members, batch)
        if staging is not None:
            actor_set.stage(segments_of_pass, staging, self._device)
        return actor_set.actors(segments_of_pass)


def segments_of(adapters: Sequence[BoundAdapter]) -> list[AdapterSegment]:
    """The segments of sequences in batch order. `adapters`: the adapter of each sequence."""
    segments: list[AdapterSegment] = []
    start = 0
    for i in range(1, len(adapters) + 1):
        if i == len(adapters) or adapters[i] is not adapters[start]:
            segments.append(AdapterSegment(adapters[start], slice(start, i)))
            start = i
    return segments

"""Segments, which say which rows of a batch belong to which slot, and tables of each slot's entry at a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

E = TypeVar("E")
P = TypeVar("P")


class Segment(NamedTuple):
    """Consecutive rows `start` to `stop` of a batch that belong to the adapter in `slot`."""

    start: int
    stop: int
    slot: int


class Segments:
    """Segments in rising order. Some rows of the batch may belong to none.

    `sequence_ranges`: for each segment the rows (start, stop) of its sequences, counted from the batch's first row.
    """

    def __init__(self, segments: Sequence[Segment], sequence_ranges: Sequence[Sequence[tuple[int, int]]] = ()) -> None:
        self._segments = tuple(segments)
        self._prepared: dict[int, tuple[Table[Any], int, Any]] = {}
        self.sequence_ranges = sequence_ranges
        self.on_device: Any = None  # what a backend has of them there

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def prepared(self, table: Table[E], make: Callable[[], P]) -> P:
        """What a backend prepared for these segments and a table, by `make`; cached until the table changes."""
        cached = self._prepared.get(id(table))
        if cached is None or cached[1] != table.version:
            cached = self._prepared[id(table)] = table, table.version, make()
        prepared: P = cached[2]
        return prepared

    @cached_property
    def rows(self) -> int:
        """The rows of all segments."""
        return sum(segment.stop - segment.start for segment in self._segments)

    @cached_property
    def runs(self) -> tuple[slice, ...]:
        """The rows of all segments, with adjacent segments merged into one slice."""
        found: list[slice] = []
        for start, stop, _ in self._segments:
            if found and found[-1].stop == start:
                found[-1] = slice(found[-1].start, stop)
            else:
                found.append(slice(start, stop))
        return tuple(found)

    @cached_property
    def host(self) -> Tensor:
        """(segments, 3) int32 in host memory: first row, rows, slot."""
        return torch.tensor([(s.start, s.stop - s.start, s.slot) for s in self._segments], dtype=torch.int32).view(
            -1, 3
        )


class Table(Generic[E]):
    """The entry of each slot for one operation at one site. `entries[slot]` is None where the slot has none.

    A backend that works with addresses keeps an array of structs beside the entries (`struct_array`). `version` changes
    with every entry, which shows that the array is stale. `changed_slots`: the slots whose entries the array does not
    have yet; the backend removes them as it updates the array.
    """

    def __init__(self) -> None:
        self.entries: list[E | None] = []
        self.version = 0
        self.changed_slots: set[int] = set()
        self.struct_array: Any = None

    def put(self, slot: int, entry: E) -> None:
        """Sets a slot's entry. No pass may be using the slot."""
        while len(self.entries) <= slot:
            self.entries.append(None)
        self.entries[slot] = entry
        self.changed_slots.add(slot)
        self.version += 1

    def drop(self, slot: int) -> None:
        """Removes a slot's entry. No pass may be using the slot."""
        self.entries[slot] = None
        self.changed_slots.add(slot)
        self.version += 1

    def __getitem__(self, slot: int) -> E:
        entry = self.entries[slot]
        assert entry is not None, f"the slot {slot} has nothing at this site"
        return entry

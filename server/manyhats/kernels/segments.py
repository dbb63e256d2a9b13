"""Which rows of a batch belong to which slot, and what each slot has at a site."""

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

    `spans`: for each segment the rows (start, stop) of its sequences, counted from the batch's first row.
    """

    def __init__(self, segments: Sequence[Segment], spans: Sequence[Sequence[tuple[int, int]]] = ()) -> None:
        self._segments = tuple(segments)
        self._times: dict[int, Segments] = {}
        self._prepared: dict[int, tuple[Table[Any], int, Any]] = {}
        self.spans = spans

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def prepared(self, table: Table[E], make: Callable[[], P]) -> P:
        """What a backend has made of these segments and a table, made once while the table stays as it is."""
        known = self._prepared.get(id(table))
        if known is None or known[1] != table.version:
            known = self._prepared[id(table)] = table, table.version, make()
        found: P = known[2]
        return found

    def times(self, count: int) -> Segments:
        """The same where each row stands as `count` rows."""
        if count not in self._times:
            each = [Segment(start * count, stop * count, slot) for start, stop, slot in self._segments]
            self._times[count] = Segments(each)
        return self._times[count]

    @cached_property
    def runs(self) -> tuple[slice, ...]:
        """The rows of all segments as few slices as can be: neighbours joined."""
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
    """What each slot has at one site for one operation. `entries[slot]` is None where it has nothing.

    A backend that works with addresses keeps its own columns of them beside the entries (`columns`), which `version`
    tells to be stale: it changes with every entry. `changed`: the slots whose entries the columns do not have yet; the
    backend takes them out.
    """

    def __init__(self) -> None:
        self.entries: list[E | None] = []
        self.version = 0
        self.changed: set[int] = set()
        self.columns: Any = None

    def put(self, slot: int, entry: E) -> None:
        """A slot's entry. Nobody uses the slot yet."""
        while len(self.entries) <= slot:
            self.entries.append(None)
        self.entries[slot] = entry
        self.changed.add(slot)
        self.version += 1

    def drop(self, slot: int) -> None:
        """Takes an entry out. Nobody uses the slot any more."""
        self.entries[slot] = None
        self.changed.add(slot)
        self.version += 1

    def __getitem__(self, slot: int) -> E:
        entry = self.entries[slot]
        assert entry is not None, f"the slot {slot} has nothing at this site"
        return entry

"""The structs of all tables of a backend, in one tensor on the device.

So that a swap of an adapter, which changes one struct in each of its tables, is one copy and one launch, and can share
the copy of the pass that comes next. The tensor and a table's place in it stay where they are until they are too small,
so a captured launch reads the entries of its replay.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.kernels.base import Staging
from manyhats.kernels.cuda.entries import ABSENT, UNSUPPORTED, WORDS, Kind, packed
from manyhats.kernels.cuda.tiles import to_device
from manyhats.kernels.segments import Table

_INITIAL_ROWS = 1 << 15  # structs, of the arena: 2 MiB
_INITIAL_SLOTS = 64  # of a table


def _zeros(rows: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is written to in and outside of inference mode
        return torch.zeros((rows, WORDS), dtype=torch.int64, device=device)


class TableView:
    """What a backend knows of one table. `kind`: of all its entries, None where they differ; `size`: the largest that
    an entry has had, as a power of two, so that grids do not change with every adapter."""

    def __init__(self) -> None:
        self.version = 0  # of the table, as of the last update
        self.first = 0  # its first struct in the arena
        self.slots = 0  # that it has space for
        self.size = 1
        self.kinds: dict[int, Kind] = {}
        self.counts: Counter[Kind] = Counter()
        self.kind: Kind | None = None
        self.aligned = True  # all entries that it has had
        self.structs: Tensor | None = None  # (slots, 8) int64, a view of the arena
        self.generation = -1  # of the arena, as of `structs`


class Arena:
    """The structs on one device. `table.struct_array` holds each table's view. Used by the model's thread."""

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._structs = _zeros(_INITIAL_ROWS, device)
        self.device = self._structs.device  # with its index
        self._used = 0
        self.generation = 0  # changes where the tensor does: what was captured is out of date then
        self._pending: dict[int, tuple[int, ...]] = {}  # by place
        self._staged: tuple[Staging, str, str] | None = None  # where all that is pending stands, and its names there
        self._numbers = count()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._structs.nbytes

    def view(self, table: Table[Any]) -> TableView:
        """The table's view, with its current entries; what changed is on the device after `flush`."""
        view: TableView | None = table.struct_array
        if view is None:
            view = table.struct_array = TableView()
        if view.version != table.version:
            with self._lock:
                version = table.version
                self._update(view, table)
                view.version = version
        return view

    def structs(self, view: TableView) -> Tensor:
        """The table's structs on the device. The caller has flushed."""
        if view.structs is None or view.generation != self.generation:
            view.structs = self._structs[view.first : view.first + view.slots]
            view.generation = self.generation
        return view.structs

    def _update(self, view: TableView, table: Table[Any]) -> None:
        if len(table.entries) > view.slots:
            self._move(view, table)
        while table.changed_slots:
            slot = table.changed_slots.pop()
            old = view.kinds.pop(slot, None)
            if old is not None:
                view.counts[old] -= 1
            entry = table.entries[slot]
            words = ABSENT
            if entry is not None:
                kind, words, size, aligned = packed(entry)
                view.aligned = view.aligned and aligned
                view.kinds[slot] = kind
                view.counts[kind] += 1
                view.size = max(view.size, 1 << max(size - 1, 0).bit_length())
            self._put(view.first + slot, words)
        view.counts = +view.counts
        shared = next(iter(view.counts)) if len(view.counts) == 1 else None
        view.kind = None if shared == UNSUPPORTED else shared

    def _move(self, view: TableView, table: Table[Any]) -> None:
        """Gives a table more space, at the end; all of its entries are written again."""
        view.slots = max(_INITIAL_SLOTS, 2 * view.slots, len(table.entries))
        view.first, self._used = self._used, self._used + view.slots
        view.structs = None
        table.changed_slots.update(slot for slot, entry in enumerate(table.entries) if entry is not None)
        if self._used > len(self._structs):
            grown = _zeros(2 * self._used, self.device)
            grown[: len(self._structs)] = self._structs
            self._structs = grown
            self.generation += 1

    def _put(self, place: int, words: tuple[int, ...]) -> None:
        self._pending[place] = words
        self._staged = None

    def stage(self, tables: Iterable[Table[Any]], staging: Staging) -> None:
        """Puts what changed into a pass's staging buffer, before it is committed. `tables`: of the pass."""
        for table in tables:
            self.view(table)
        if not self._pending or (self._staged is not None and self._staged[0] is staging):
            return
        number = next(self._numbers)
        names = f"kernels.places.{number}", f"kernels.structs.{number}"
        for name, array in zip(names, self._changes(), strict=True):
            staging.put(name, array)
        self._staged = staging, *names

    def flush(self) -> None:
        """Writes what changed, in one launch: from the staging buffer, else after a copy of its own."""
        if not self._pending:
            return
        places, structs = self._on_device()
        self._structs.index_copy_(0, places, structs)
        self._pending.clear()
        self._staged = None

    def _on_device(self) -> tuple[Tensor, Tensor]:
        if self._staged is not None:
            staging, places, structs = self._staged
            try:
                return staging[places], staging[structs]
            except (KeyError, ValueError):  # its pass has not been copied: it failed before, or comes later
                pass
        there = to_device(np.concatenate([part.reshape(-1) for part in self._changes()]), self.device)
        return there[: len(self._pending)], there[len(self._pending) :].view(-1, WORDS)

    def _changes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places (n,) and the structs (n, 8) that changed."""
        places = np.fromiter(self._pending, dtype=np.int64, count=len(self._pending))
        return places, np.array(list(self._pending.values()), dtype=np.int64)

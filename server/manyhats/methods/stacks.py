"""Low-rank pairs of many adapters side by side, so that one product serves all their rows.

Where each adapter has a row or a few, as when texts are written token by token, a loop over adapters costs more in
calls than in numbers. The pairs that a linear layer meets are kept in slots of one tensor, as they come, and the slots
that a batch needs are multiplied as one batch of matrices.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_FIRST = 8  # slots of a fresh stack; doubled as it fills
_MOST = 64  # slots; who was used the longest ago makes room


Member = tuple[slice, Tensor, Tensor]  # rows of the batch, down (r, in), up (r, out)


@dataclass(slots=True)
class StackedRows:
    """The members of one batch in their slots. `low`, `high`: the slots that are multiplied."""

    stack: Stack
    version: int  # of the stack when they were placed
    low: int
    high: int
    read: Tensor  # (slots * most,) the batch's rows that each slot reads, pads repeating one
    back: Tensor  # (rows,) where each real row stands among these
    rows: Tensor  # (rows,) the real rows of the batch

    @property
    def stale(self) -> bool:
        """Whether slots have changed hands since."""
        return self.version != self.stack.version

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds (x down^T) up to the members' rows of y. x: (rows, in), y: (rows, out)."""
        own = slice(self.low, self.high)
        xs = x.index_select(0, self.read).view(self.high - self.low, -1, x.shape[1])
        inner = torch.bmm(xs, self.stack.down[own].transpose(1, 2))
        out = torch.bmm(inner, self.stack.up[own]).view(-1, y.shape[1])
        y.index_add_(0, self.rows, out.index_select(0, self.back))


class Stack:
    """The pairs of one rank at one linear layer. down: (slots, r, in), up: (slots, r, out)."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down = down.new_zeros(_FIRST, *down.shape)
        self.up = up.new_zeros(_FIRST, *up.shape)
        self.version = 0
        self._slots: OrderedDict[int, tuple[int, weakref.ref[Tensor]]] = OrderedDict()  # by the id of `down`

    def place(self, members: Sequence[Member]) -> StackedRows | None:
        """Slots for all members; None where there are too many, or where others' slots lie between most of them."""
        if len(members) > _MOST:
            return None
        keep = {id(down) for _, down, _ in members}
        slots = [self._slot(down, up, keep) for _, down, up in members]
        low, high = min(slots), max(slots) + 1
        if high - low > 2 * len(slots) + _FIRST:
            return None
        spans = tuple((slot - low, rows.start, rows.stop) for slot, (rows, _, _) in zip(slots, members, strict=True))
        return StackedRows(self, self.version, low, high, *_places(spans, high - low, self.down.device))

    def _slot(self, down: Tensor, up: Tensor, keep: set[int]) -> int:
        """Where a pair lies; it is brought there if need be."""
        known = self._slots.get(id(down))
        if known is not None and known[1]() is down:
            self._slots.move_to_end(id(down))
            return known[0]
        slot = known[0] if known is not None else self._room(keep)
        self.down[slot] = down
        self.up[slot] = up
        self.version += 1
        self._slots[id(down)] = slot, weakref.ref(down)
        self._slots.move_to_end(id(down))
        return slot

    def _room(self, keep: set[int]) -> int:
        """A slot of a pair that has left the device, a free one, or the one that was used the longest ago."""
        gone = next((key for key, (_, pair) in self._slots.items() if pair() is None and key not in keep), None)
        taken = len(self._slots)
        if gone is None and taken < len(self.down):
            return min(set(range(len(self.down))) - {slot for slot, _ in self._slots.values()})
        if gone is None and taken < _MOST:
            self.down = torch.cat([self.down, torch.zeros_like(self.down)])
            self.up = torch.cat([self.up, torch.zeros_like(self.up)])
            self.version += 1
            return taken
        oldest = gone if gone is not None else next(key for key in self._slots if key not in keep)
        return self._slots.pop(oldest)[0]


@lru_cache(maxsize=64)
def _places(spans: tuple[tuple[int, int, int], ...], slots: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that each slot reads, pads repeating one; where each real row stands among these; the real rows.

    `spans`: slot, first row, row behind the last.
    """
    own: dict[int, list[int]] = {}  # an adapter may stand in a batch more than once
    for slot, start, stop in spans:
        own.setdefault(slot, []).extend(range(start, stop))
    most = max(map(len, own.values()))
    read = [[0] * most for _ in range(slots)]
    back: list[int] = []
    rows: list[int] = []
    for slot, members in own.items():
        read[slot] = members + members[:1] * (most - len(members))
        back += range(slot * most, slot * most + len(members))
        rows += members
    flat = [row for one in read for row in one]
    tensors = [torch.tensor(values, dtype=torch.long, device=device) for values in (flat, back, rows)]
    return tensors[0], tensors[1], tensors[2]

"""Low-rank pairs of many adapters side by side, so that one product serves all their rows.

Where each adapter has a row or a few, as when texts are written token by token, a loop over adapters costs more in
calls than in numbers. The pairs that a linear layer meets are kept in slots of one tensor, as they come, and the slots
that a batch needs are multiplied as one batch of matrices. They are copies, counted within `slot_memory`, and go with
the adapters that they were made of.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from manyhats.methods.budget import MemoryBudget

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
        # By the id of `down`: the slot, and the pair.
        self._slots: OrderedDict[int, tuple[int, weakref.ref[Tensor], weakref.ref[Tensor]]] = OrderedDict()

    @staticmethod
    def first_size(down: Tensor, up: Tensor) -> int:
        """Bytes of a fresh stack of such pairs."""
        return _FIRST * (down.nbytes + up.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, of the slots that are free too."""
        return self.down.nbytes + self.up.nbytes

    @property
    def sparse(self) -> bool:
        """Whether so few of its slots are in use that it is better made anew."""
        used = sum(down() is not None for _, down, _ in self._slots.values())
        return not used or (len(self.down) > _FIRST and 4 * used <= len(self.down))

    def place(self, members: Sequence[Member], may_grow: Callable[[int], bool] = bool) -> StackedRows | None:
        """Slots for all members; None where there are too many, or where others' slots lie between most of them.

        `may_grow`: whether the stack may take so many bytes more.
        """
        if len(members) > _MOST:
            return None
        keep = {id(down) for _, down, _ in members}
        slots: list[int] = []
        for _, down, up in members:
            slot = self._slot(down, up, keep, may_grow)
            if slot is None:
                return None
            slots.append(slot)
        low, high = min(slots), max(slots) + 1
        if high - low > 2 * len(slots) + _FIRST:
            return None
        spans = tuple((slot - low, rows.start, rows.stop) for slot, (rows, _, _) in zip(slots, members, strict=True))
        return StackedRows(self, self.version, low, high, *_places(spans, high - low, self.down.device))

    def forget(self, down: Tensor) -> None:
        """Frees the slot of a pair that leaves the device."""
        known = self._slots.get(id(down))
        if known is not None and known[1]() is down:
            del self._slots[id(down)]

    def retire(self) -> None:
        """Makes all that was placed stale: it is no longer to be used."""
        self.version += 1

    def _slot(self, down: Tensor, up: Tensor, keep: set[int], may_grow: Callable[[int], bool]) -> int | None:
        """Where a pair lies; it is brought there if need be. None where there is no room."""
        known = self._slots.get(id(down))
        if known is not None and known[1]() is down:
            self._slots.move_to_end(id(down))
            return known[0]
        slot = known[0] if known is not None else self._room(keep, may_grow)
        if slot is None:
            return None
        self.down[slot] = down
        self.up[slot] = up
        self.version += 1
        self._slots[id(down)] = slot, weakref.ref(down), weakref.ref(up)
        self._slots.move_to_end(id(down))
        return slot

    def _room(self, keep: set[int], may_grow: Callable[[int], bool]) -> int | None:
        """A slot of a pair that has left the device, a free one, or the one that was used the longest ago."""
        gone = next((key for key, (_, pair, _) in self._slots.items() if pair() is None and key not in keep), None)
        taken = len(self._slots)
        if gone is None and taken < len(self.down):
            return min(set(range(len(self.down))) - {slot for slot, _, _ in self._slots.values()})
        if gone is None and taken < _MOST and may_grow(self.nbytes):
            self._grow()
            return taken
        oldest = gone if gone is not None else next((key for key in self._slots if key not in keep), None)
        return None if oldest is None else self._slots.pop(oldest)[0]

    def _grow(self) -> None:
        """Twice as many slots. The pairs are copied again, so that old and new never lie in memory together."""
        shapes = [(2 * len(tensor), *tensor.shape[1:]) for tensor in (self.down, self.up)]
        self.down = self.down.new_empty(0)
        self.up = self.up.new_empty(0)
        self.down, self.up = self.down.new_zeros(shapes[0]), self.up.new_zeros(shapes[1])
        for slot, down_ref, up_ref in self._slots.values():
            down, up = down_ref(), up_ref()
            if down is not None and up is not None:
                self.down[slot] = down
                self.up[slot] = up
        self.version += 1


class StackPool:
    """All stacks of one backbone, by the linear layer's name and the rank, within a part of a budget.

    The model's thread places pairs; others take them out as their adapters leave. Where there is no room for a stack,
    there is none: a loop gives the same answers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stacks: dict[tuple[str, int], Stack] = {}
        self._budget = MemoryBudget()
        self._used = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all stacks."""
        return self._used

    def use(self, budget: MemoryBudget) -> None:
        """From now on the stacks' bytes are taken from `budget`, of which they may have a half."""
        self.clear()
        with self._lock:
            self._budget = budget

    def place(self, site: str, members: Sequence[Member]) -> StackedRows | None:
        """The members in the stack of their layer and rank; None where there is no room for them."""
        _, down, up = members[0]
        with self._lock:
            stack = self._stacks.get((site, len(down)))
            if stack is None:
                if not self._take(Stack.first_size(down, up)):
                    return None
                stack = self._stacks[site, len(down)] = Stack(down, up)
            return stack.place(members, self._take)

    def forget(self, pairs: Iterable[tuple[str, Tensor]]) -> None:
        """Frees the slots of pairs that leave the device, given as layer and `down`."""
        with self._lock:
            for site, down in pairs:
                stack = self._stacks.get((site, len(down)))
                if stack is not None:
                    stack.forget(down)
                    if stack.sparse:
                        self._drop((site, len(down)))

    def clear(self) -> bool:
        """Gives all stacks up; whether there were any. A batch under way finishes with those that it has."""
        with self._lock:
            keys = list(self._stacks)
            for key in keys:
                self._drop(key)
        return bool(keys)

    def _take(self, size: int) -> bool:
        if self._used + size > self._budget.limit // 2 or not self._budget.take(size):
            return False
        self._used += size
        return True

    def _drop(self, key: tuple[str, int]) -> None:
        stack = self._stacks.pop(key)
        stack.retire()
        self._used -= stack.nbytes
        self._budget.give_back(stack.nbytes)


def stack_pool(kept: dict[Any, Any]) -> StackPool:
    """The pool among what methods keep with a backbone (`Backbone.kept`)."""
    pool: StackPool | None = kept.get(StackPool)
    if pool is None:
        pool = kept.setdefault(StackPool, StackPool())
    return pool


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

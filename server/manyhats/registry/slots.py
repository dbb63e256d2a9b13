"""The adapters in slots: who uses them, which are pinned, and which may be evicted, the longest idle first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, ValuesView
from dataclasses import dataclass

from manyhats.methods.bound_adapter import BoundAdapter


@dataclass(slots=True)
class Slot:
    """An adapter that is ready to act. `size`: the bytes that are counted for it. `asked`: how often again."""

    bound: BoundAdapter
    size: int
    users: int = 0
    asked: int = 0
    pinned: bool = False
    evict_when_idle: bool = False


class Slots:
    """Slots by sha256. No method looks at all of them. For one thread at a time."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # those neither used nor pinned, the longest idle first
        self.pinned = 0
        self.pinned_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._slots

    def __getitem__(self, sha256: str) -> Slot:
        return self._slots[sha256]

    def get(self, sha256: str) -> Slot | None:
        """The slot of an adapter; None where it has none."""
        return self._slots.get(sha256)

    def values(self) -> ValuesView[Slot]:
        """All slots."""
        return self._slots.values()

    @property
    def longest_idle(self) -> str | None:
        """The adapter to evict first; None where all are used or pinned."""
        return next(iter(self._idle), None)

    def may_drain(self, sha256: str) -> bool:
        """Whether there is such a slot that will be idle when its users have gone."""
        slot = self._slots.get(sha256)
        return slot is not None and not slot.pinned

    def add(self, sha256: str, slot: Slot) -> Slot:
        """Adds a slot, which is not pinned, and returns it."""
        self._slots[sha256] = slot
        self._update_idle(sha256, slot)
        return slot

    def pop(self, sha256: str) -> Slot:
        """Takes a slot away."""
        self.set_pinned(sha256, False)
        self._idle.pop(sha256, None)
        return self._slots.pop(sha256)

    def use(self, sha256: str, users: int = 1) -> None:
        """Counts further users."""
        slot = self._slots[sha256]
        slot.users += users
        slot.asked += users
        self._update_idle(sha256, slot)

    def give_back(self, sha256: str) -> Slot:
        """Counts one user less. Returns the slot."""
        slot = self._slots[sha256]
        slot.users -= 1
        self._update_idle(sha256, slot)
        return slot

    def set_pinned(self, sha256: str, pinned: bool) -> None:
        """Pins or unpins the adapter in a slot."""
        slot = self._slots[sha256]
        if slot.pinned != pinned:
            slot.pinned = pinned
            sign = 1 if pinned else -1
            self.pinned += sign
            self.pinned_bytes += sign * slot.size
            self._update_idle(sha256, slot)

    def _update_idle(self, sha256: str, slot: Slot) -> None:
        if slot.users or slot.pinned:
            self._idle.pop(sha256, None)
        else:
            self._idle[sha256] = None

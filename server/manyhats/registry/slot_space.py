"""The slots and their memory: what fits, and who is evicted for what does not."""

from __future__ import annotations

from collections.abc import Callable

from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.budget import MemoryBudget
from manyhats.registry.host_memory import HostMemory
from manyhats.registry.slots import Slots


class SlotSpace:
    """Up to `limit` slots, within a budget of bytes. For one thread at a time.

    `memory`: where evicted adapters go, where slots are host memory too (`on_host`). `unbind` is called with each
    adapter that leaves its slot and does not go there. `binding`: slots that are reserved, and not filled yet.
    """

    def __init__(
        self,
        limit: int,
        budget: MemoryBudget,
        memory: HostMemory,
        unbind: Callable[[BoundAdapter], None],
        *,
        on_host: bool,
    ) -> None:
        self.limit = limit
        self.budget = budget
        self.slots = Slots()
        self.binding = 0
        self.evictions = 0
        self._memory = memory
        self._unbind = unbind
        self._on_host = on_host

    @property
    def free_slots(self) -> int:
        """Slots that are neither filled nor reserved."""
        return self.limit - len(self.slots) - self.binding

    def reserve(self, size: int) -> bool:
        """Reserves the bytes of a slot; idle adapters are evicted for it, the longest idle first. False where that is
        not enough."""
        while True:
            if self.free_slots > 0 and self.budget.reserve(size):
                return True
            if not self._evict():
                return False

    def fits(self, size: int) -> bool:
        """Whether an adapter gets a slot without another being evicted."""
        return self.free_slots > 0 and self.budget.fits(size)

    def never_fits(self, size: int) -> bool:
        """Whether the pinned adapters alone leave too little. Waiting would hold up everybody behind."""
        return self.slots.pinned >= self.limit or self.slots.pinned_bytes + size > self.budget.limit

    def shrink(self) -> None:
        """Evicts idle adapters while more bytes are in use than there may be."""
        while self.budget.used > self.budget.limit and self._evict():
            pass

    def free(self, sha256: str, *, keep: bool = False) -> None:
        """Takes an adapter from its slot; `keep`: into memory, bound."""
        slot = self.slots.pop(sha256)
        self.budget.free(slot.size)
        if keep:
            self._memory.put_bound(sha256, slot.bound, slot.asked)
        else:
            self._memory.credit(sha256, slot.asked)
            self._unbind(slot.bound)

    def _evict(self) -> bool:
        """Evicts the longest idle adapter; False where none is idle."""
        sha256 = self.slots.longest_idle
        if sha256 is None:
            return False
        self.free(sha256, keep=self._on_host)
        self.evictions += 1
        return True

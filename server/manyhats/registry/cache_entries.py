"""What the adapter cache keeps of each adapter: its slot, or the job that loads it into one."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from manyhats.core.adapter import Adapter
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.records import Version

Level = Literal["disk", "memory", "slot"]


@dataclass(slots=True)
class Slot:
    """An adapter that is ready to act. `size`: the bytes that are counted for it."""

    bound: BoundAdapter
    size: int
    users: int = 0
    pinned: bool = False
    evict_when_idle: bool = False


@dataclass(slots=True)
class LoadJob:
    """An adapter on its way into a slot, and the futures of those who wait for it."""

    version: Version
    size: int = 0
    adapter: Adapter | None = None
    futures: list[Future[BoundAdapter]] = field(default_factory=list)
    pinning_futures: list[Future[BoundAdapter]] = field(default_factory=list)  # those among them that pin it
    evict_when_idle: bool = False  # it was unloaded meanwhile
    slot: Slot | None = None  # it was in a slot already when its turn came
    never_fits: bool = False  # the pinned adapters leave too little memory for it
    passed: int = 0  # requests that were given a busy slot while it waited for memory
    draining: set[str] = field(default_factory=set)  # slots that take no new requests until it has its own

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(future.cancelled() for future in self.futures)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts and bytes by tier."""

    slots: int
    slot_bytes: int
    memory: int
    memory_bytes: int
    loads: int
    evictions: int

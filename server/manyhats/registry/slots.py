"""What residency keeps of each adapter: one in its slot, and one on its way there."""

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
    leaving: bool = False  # given up as soon as nobody uses it


@dataclass(slots=True)
class Arrival:
    """An adapter on its way into a slot, and who waits for it."""

    version: Version
    size: int = 0
    adapter: Adapter | None = None
    waiting: list[Future[BoundAdapter]] = field(default_factory=list)
    pins: list[Future[BoundAdapter]] = field(default_factory=list)  # those among them that pin it
    leaving: bool = False  # unloaded meanwhile: goes as soon as those who wait are done with it
    held: Slot | None = None  # was in a slot already when its turn came
    refused: bool = False  # pinned adapters leave it no room
    passed: int = 0  # requests that were given a busy slot while it waited for room
    draining: set[str] = field(default_factory=set)  # slots that take no new requests until it has room

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(future.cancelled() for future in self.waiting)


@dataclass(frozen=True, slots=True)
class ResidencyStats:
    """Counts and bytes by tier."""

    slots: int
    slot_bytes: int
    memory: int
    memory_bytes: int
    loads: int
    evictions: int

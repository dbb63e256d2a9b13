"""What the adapter cache keeps of adapters on their way into a slot, and its counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from manyhats.core.adapter import Adapter
from manyhats.core.packed_adapter import PackedAdapter
from manyhats.errors import DamagedStore
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.records import Version
from manyhats.registry.slots import Slot, Slots

logger = logging.getLogger(__name__)

_PASSES = 1  # requests for adapters in slots that may pass one that waits for memory, before slots drain for it

Level = Literal["disk", "memory", "slot"]
# Calls the first function when a version's files are on the disk, without waiting for it, or else the second.
Fetch = Callable[[Version, Callable[[], None], Callable[[BaseException], None]], None]


@dataclass(slots=True)
class LoadJob:
    """An adapter on its way into a slot, and the futures of those who wait for it."""

    version: Version
    size: int = 0
    adapter: Adapter | PackedAdapter | None = None
    bound: BoundAdapter | None = None  # where it lay in memory bound
    futures: list[Future[BoundAdapter]] = field(default_factory=list)
    pinning_futures: list[Future[BoundAdapter]] = field(default_factory=list)  # those among them that pin it
    evict_when_idle: bool = False  # it was unloaded meanwhile
    slot: Slot | None = None  # it was in a slot already when its turn came
    never_fits: bool = False  # the pinned adapters leave too little memory for it
    reserved: bool = False  # whether it has a place in a slot that it has not filled
    passed: int = 0  # requests that were given a busy slot while it waited for memory
    draining: set[str] = field(default_factory=set)  # slots that take no new requests until it has its own

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(future.cancelled() for future in self.futures)

    def claims(self, sha256: str, slots: Slots, free_slots: int, free_bytes: int) -> bool:
        """Whether the slot of this adapter must become idle for the job, which waits for memory.

        Slots that are never idle would starve it. So requests may pass it, but not for ever: then as many slots as it
        needs, of those that are asked for, take no new requests.
        """
        if sha256 in self.draining:
            return True
        self.draining = {other for other in self.draining if slots.may_drain(other)}
        draining_bytes = sum(slots[other].size for other in self.draining)
        enough = free_slots + len(self.draining) > 0 and self.size <= free_bytes + draining_bytes
        if enough or self.passed < _PASSES:
            self.passed += 1
            return False
        self.draining.add(sha256)
        return True


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts and bytes by tier. `slot_bytes`: of adapters in slots and of the tables with their entries, of
    `slot_bytes_limit` at most."""

    slots: int
    slot_bytes: int
    slot_bytes_limit: int
    memory: int
    memory_bytes: int
    loads: int
    evictions: int


def set_bound(future: Future[BoundAdapter], bound: BoundAdapter) -> bool:
    """Gives the adapter to who waits for it; False where the future was cancelled."""
    if not future.set_running_or_notify_cancel():
        return False
    future.set_result(bound)
    return True


def succeeded(future: Future[BoundAdapter]) -> bool:
    """Whether the future has its adapter."""
    return not future.cancelled() and future.exception() is None


def logged(version: Version, error: BaseException) -> Exception:
    """The error for those who wait for an adapter, which is logged."""
    if not isinstance(error, Exception):  # it would end their event loop
        error = RuntimeError(repr(error))
    # Damage was logged when it was found; later requests for the same files must not fill the log with it.
    level = logging.DEBUG if isinstance(error, DamagedStore) else logging.WARNING
    logger.log(level, "the adapter %s cannot be loaded: %s", version.ref, error)
    return error

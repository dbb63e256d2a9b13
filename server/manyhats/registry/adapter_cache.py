"""Where an adapter's weights are: on disk, in host memory, or in a slot, ready to act.

    disk --load--> memory --bind--> slot

Whoever is about to run an adapter acquires it, which keeps it in its slot until it is released. Slots that nobody
uses are given up in the order of their last use. Loading happens in threads of its own, so it never stands in front
of running work, and a file that cannot be loaded fails only those who asked for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from manyhats.core.adapter import Adapter
from manyhats.errors import DamagedStore, Overloaded, TooLarge
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.budget import MemoryBudget
from manyhats.registry.records import Version
from manyhats.registry.slots import Arrival, Level, ResidencyStats, Slot

logger = logging.getLogger(__name__)

_PASSES = 1  # requests for adapters in slots that may pass one that waits for room, before slots drain for it


class AdapterCache:
    """`load` reads a version from disk; `bind` puts it on the device; `slot_size` foretells its bytes there.

    Limits: `slots` adapters and `slot_bytes` on the device, `memory_bytes` in host memory. `unbind` is told which
    adapter leaves its slot.
    """

    def __init__(
        self,
        *,
        load: Callable[[Version], Adapter],
        bind: Callable[[Adapter], BoundAdapter],
        slot_size: Callable[[Adapter], int],
        slots: int,
        slot_bytes: int,
        memory_bytes: int,
        unbind: Callable[[BoundAdapter], None] = lambda bound: None,
    ) -> None:
        self.budget = MemoryBudget(slot_bytes)
        self._load = load
        self._bind = bind
        self._unbind = unbind
        self._slot_size = slot_size
        self._slot_limit = slots
        self._slot_bytes = slot_bytes
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, Slot] = OrderedDict()  # least recently used first
        self._memory: OrderedDict[str, tuple[Adapter, int]] = OrderedDict()  # with its bytes
        self._memory_used = 0
        self._arrivals: dict[str, Arrival] = {}
        self._queue: deque[Arrival] = deque()  # loaded, waiting for room in the slots
        self._reserved = 0  # bytes of adapters that are being bound
        self._binding = 0
        self._loads = 0
        self._evictions = 0
        self.on_load: Callable[[Version, float], None] = lambda version, seconds: None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="load")

    def close(self) -> None:
        """Ends the loading threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ---- asking

    def acquire(self, version: Version) -> Future[BoundAdapter]:
        """The adapter in a slot, to be given back by `release`.

        The future fails with what loading raises, or TooLarge where the adapter is larger than all slots together.
        Cancelling the future before it is done gives up the wish.
        """
        future: Future[BoundAdapter] = Future()
        self._want(version, future)
        return future

    def release(self, version: Version) -> None:
        """Gives back what `acquire` gave."""
        with self._lock:
            slot = self._slots[version.sha256]
            slot.users -= 1
            if slot.leaving and not slot.users and not slot.pinned:
                self._drop(version.sha256)
                self._forget(version.sha256)
            todo = self._admit()
        self._start(todo)

    def prefetch(self, version: Version) -> None:
        """Brings the adapter into a slot beside the running work, if no other has to leave for it."""
        with self._lock:
            if self._queue or self._crowded(version.info.bytes):
                return
        self.bring(version)

    def bring(self, version: Version) -> Future[BoundAdapter]:
        """Brings the adapter into a slot, and holds it there no longer than for a moment."""
        future = self.acquire(version)
        future.add_done_callback(lambda done: self.release(version) if _succeeded(done) else None)
        return future

    def pin(self, version: Version) -> Future[BoundAdapter]:
        """Brings the adapter into a slot that is never given up, until `unpin`."""
        with self._lock:
            if (slot := self._slots.get(version.sha256)) is not None:
                slot.pinned, slot.leaving = True, False
        future: Future[BoundAdapter] = Future()
        self._want(version, future, pin=True)
        future.add_done_callback(lambda done: self.release(version) if _succeeded(done) else None)
        return future

    def unpin(self, sha256: str) -> None:
        """Lets a pinned adapter be given up again."""
        with self._lock:
            if (slot := self._slots.get(sha256)) is not None:
                slot.pinned = False
            if (arrival := self._arrivals.get(sha256)) is not None:
                arrival.pins.clear()
            todo = self._admit()
        self._start(todo)

    def unload(self, sha256: str) -> None:
        """Gives up the slot (as soon as nobody uses it) and the copy in host memory."""
        with self._lock:
            self._forget(sha256)
            if (arrival := self._arrivals.get(sha256)) is not None:
                arrival.pins.clear()
                arrival.leaving = True
            if (slot := self._slots.get(sha256)) is not None:
                slot.pinned = False
                slot.leaving = True
                if not slot.users:
                    self._drop(sha256)
            todo = self._admit()
        self._start(todo)

    def level(self, sha256: str) -> Level:
        """Where the adapter is."""
        with self._lock:
            if sha256 in self._slots:
                return "slot"
            return "memory" if sha256 in self._memory else "disk"

    def is_pinned(self, sha256: str) -> bool:
        """Whether the adapter is held in its slot, or will be when it is there."""
        with self._lock:
            slot, arrival = self._slots.get(sha256), self._arrivals.get(sha256)
            return (slot is not None and slot.pinned) or (arrival is not None and bool(arrival.pins))

    def stats(self) -> ResidencyStats:
        """How full the tiers are."""
        with self._lock:
            return ResidencyStats(
                slots=len(self._slots),
                slot_bytes=self._used(),
                memory=len(self._memory),
                memory_bytes=self._memory_used,
                loads=self._loads,
                evictions=self._evictions,
            )

    # ---- disk -> memory

    def _want(self, version: Version, future: Future[BoundAdapter], *, pin: bool = False) -> None:
        sha = version.sha256
        with self._lock:
            slot = self._slots.get(sha)
            if slot is not None and (pin or not self._drains(sha, slot)):
                slot.users += 1
                slot.leaving = False
                slot.pinned = slot.pinned or pin
                self._slots.move_to_end(sha)
                ready: BoundAdapter | None = slot.bound
            else:
                ready = None
                arrival = self._arrivals.get(sha)
                if arrival is None:
                    arrival = self._arrivals[sha] = Arrival(version)
                    self._threads.submit(self._bring, arrival)
                arrival.waiting.append(future)
                arrival.leaving = False
                if pin:
                    arrival.pins.append(future)
        if ready is None:
            future.add_done_callback(self._given_up)
        elif not _give(future, ready):
            self.release(version)

    def _given_up(self, future: Future[BoundAdapter]) -> None:
        """Lets those behind go on, where the first in the queue was waited for by this one alone."""
        if not future.cancelled():
            return
        with self._lock:
            todo = self._admit()
        self._start(todo)

    def _drains(self, sha: str, slot: Slot) -> bool:
        """Whether a request for an adapter in a slot has to stand behind the first that waits for room.

        Slots that are never idle would starve it. So it may be passed, but not for ever: then as many slots as it
        needs, of those that are asked for, take no new requests. All others answer at once. The lock is held.
        """
        if not self._queue or slot.pinned:
            return False
        first = self._queue[0]
        if first.given_up:
            return False
        if sha in first.draining:
            return True
        first.draining &= {other for other, held in self._slots.items() if not held.pinned}
        leaving = [self._slots[other].size for other in first.draining]
        enough = (
            len(self._slots) + self._binding - len(leaving) < self._slot_limit
            and self._used() - sum(leaving) + first.size <= self._slot_bytes
        )
        if enough or first.passed < _PASSES:
            first.passed += 1
            return False
        first.draining.add(sha)
        return True

    def _bring(self, arrival: Arrival) -> None:
        sha = arrival.version.sha256
        try:
            with self._lock:
                kept = self._memory.get(sha)
            if kept is not None:
                adapter = kept[0]
            else:
                begin = time.monotonic()
                adapter = self._load(arrival.version)
                self.on_load(arrival.version, time.monotonic() - begin)
            size = self._slot_size(adapter)
            if size > self._slot_bytes:
                raise TooLarge(
                    f"the adapter {arrival.version.ref} takes {size} bytes in a slot; all slots together have "
                    f"{self._slot_bytes}"
                )
        except Exception as error:
            self._failed(arrival, error)
            return
        with self._lock:
            self._loads += kept is None
            self._remember(sha, adapter)
            arrival.adapter, arrival.size = adapter, size
            self._queue.append(arrival)
            todo = self._admit()
        self._start(todo)

    def _remember(self, sha: str, adapter: Adapter) -> None:
        self._forget(sha)
        size = adapter.nbytes
        self._memory[sha] = adapter, size
        self._memory_used += size
        while self._memory_used > self._memory_bytes and len(self._memory) > 1:
            self._forget(next(iter(self._memory)))

    def _forget(self, sha: str) -> None:
        _, size = self._memory.pop(sha, (None, 0))
        self._memory_used -= size

    # ---- memory -> slot

    def _used(self) -> int:
        return sum(slot.size for slot in self._slots.values()) + self._reserved

    def _admit(self) -> list[Arrival]:
        """Takes from the queue, in order, whatever there is room for. The lock is held; the caller starts them."""
        started: list[Arrival] = []
        while self._queue:
            arrival = self._queue[0]
            sha = arrival.version.sha256
            if (resident := self._slots.get(sha)) is not None:
                resident.users += 1
                arrival.held = resident
            elif arrival.given_up:
                del self._arrivals[sha]
                if arrival.leaving:
                    self._forget(sha)
                self._queue.popleft()
                continue
            elif self._never_fits(arrival.size):
                arrival.refused = True
            else:
                if not self._make_room(arrival.size):
                    break
                self._reserved += arrival.size
                self._binding += 1
            self._queue.popleft()
            started.append(arrival)
        return started

    def _make_room(self, size: int) -> bool:
        """Takes a slot's bytes from the budget; adapters that nobody uses leave for it, the longest idle first."""
        idle = self._idle()
        while True:
            placed = len(self._slots) + self._binding < self._slot_limit
            if placed and self.budget.take(size):
                return True
            if idle:
                self._evict(idle.pop(0))
            else:
                return False

    def _crowded(self, size: int) -> bool:
        return len(self._slots) + self._binding >= self._slot_limit or not self.budget.fits(size)

    def _never_fits(self, size: int) -> bool:
        """Whether the pinned adapters alone leave no room. Waiting would hold up everybody behind."""
        pinned = [slot.size for slot in self._slots.values() if slot.pinned]
        return len(pinned) >= self._slot_limit or sum(pinned) + size > self._slot_bytes

    def _start(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self._threads.submit(self._settle, arrival)

    def _settle(self, arrival: Arrival) -> None:
        version = arrival.version
        sha = version.sha256
        assert arrival.adapter is not None
        if arrival.refused:
            self._failed(
                arrival, Overloaded(f"there is no slot for {version.ref}: pinned adapters leave no room; unpin some")
            )
            return
        slot = arrival.held
        if slot is None:
            try:
                bound = self._bind(arrival.adapter)
            except Exception as error:
                with self._lock:
                    self._reserved -= arrival.size
                    self._binding -= 1
                    self.budget.give_back(arrival.size)
                self._failed(arrival, error)
                with self._lock:
                    todo = self._admit()
                self._start(todo)
                return
            # A file in 16 bits takes twice its bytes beside a backbone in 32: what it takes is what counts.
            more = max(bound.nbytes - arrival.size, 0)
            self.budget.add(more)
            slot = Slot(bound, arrival.size + more, users=1)
        with self._lock:
            if arrival.held is None:
                self._reserved -= arrival.size
                self._binding -= 1
                self._slots[sha] = slot
            self._slots.move_to_end(sha)
            self._arrivals.pop(sha, None)
            slot.leaving = arrival.leaving
            slot.pinned = slot.pinned or any(not future.cancelled() for future in arrival.pins)
            slot.users += len(arrival.waiting)
            idle = self._idle()
            while idle and self.budget.used > self.budget.limit:  # it takes more than was foretold
                self._evict(idle.pop(0))
        for future in arrival.waiting:
            if not _give(future, slot.bound):
                self.release(version)
        self.release(version)  # our own hold on it

    def _failed(self, arrival: Arrival, error: Exception) -> None:
        # damage was logged when it was found; those who ask on must not fill the log with it
        level = logging.DEBUG if isinstance(error, DamagedStore) else logging.WARNING
        logger.log(level, "the adapter %s cannot be loaded: %s", arrival.version.ref, error)
        with self._lock:
            self._arrivals.pop(arrival.version.sha256, None)
        for future in arrival.waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _idle(self) -> list[str]:
        """Those that may leave, the longest idle first."""
        return [sha for sha, slot in self._slots.items() if not slot.users and not slot.pinned]

    def _evict(self, sha: str) -> None:
        self._drop(sha)
        self._evictions += 1

    def _drop(self, sha: str) -> None:
        slot = self._slots.pop(sha)
        self._unbind(slot.bound)
        self.budget.give_back(slot.size)


def _give(future: Future[BoundAdapter], bound: BoundAdapter) -> bool:
    """False where nobody waits for the future any more."""
    if not future.set_running_or_notify_cancel():
        return False
    future.set_result(bound)
    return True


def _succeeded(future: Future[BoundAdapter]) -> bool:
    return not future.cancelled() and future.exception() is None

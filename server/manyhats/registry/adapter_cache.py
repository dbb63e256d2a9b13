"""Where an adapter's weights are: on disk, in host memory, or in a slot, ready to act.

    disk --load--> memory --bind--> slot

Whoever is about to run an adapter acquires it, which keeps it in its slot until it is released. Slots that nobody
uses are evicted in the order of their last use. Loading happens in threads of its own, so it never delays running
work, and a file that cannot be loaded fails only those who asked for it.
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
from manyhats.registry.cache_entries import CacheStats, Level, LoadJob, Slot
from manyhats.registry.host_memory import HostMemory
from manyhats.registry.records import Version

logger = logging.getLogger(__name__)

_PASSES = 1  # requests for adapters in slots that may pass one that waits for memory, before slots drain for it


class AdapterCache:
    """`load` reads a version from disk; `bind` puts it on the device; `slot_size` estimates its bytes there.

    Limits: `slots` adapters and `slot_bytes` on the device, `memory_bytes` in host memory. `unbind` is called with
    each adapter that leaves its slot.
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
        self.budget = MemoryBudget(slot_bytes)  # of the slots, and of what is being bound
        self._load = load
        self._bind = bind
        self._unbind = unbind
        self._slot_size = slot_size
        self._slot_limit = slots
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, Slot] = OrderedDict()  # by sha256, least recently used first
        self._memory = HostMemory(memory_bytes)
        self._load_jobs: dict[str, LoadJob] = {}  # by sha256
        self._queue: deque[LoadJob] = deque()  # those that are loaded, and wait for a slot
        self._binding = 0  # those that have a slot, and are being bound
        self._loads = 0
        self._evictions = 0
        self.on_load: Callable[[Version, float], None] = lambda version, seconds: None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="load")

    def close(self) -> None:
        """Ends the loading threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ---- requests

    def acquire(self, version: Version) -> Future[BoundAdapter]:
        """The adapter in a slot, to be given back by `release`.

        The future fails with what loading raises, or TooLarge where the adapter is larger than all slots together.
        Cancelling the future before it is done withdraws the request.
        """
        future: Future[BoundAdapter] = Future()
        self._request(version, future)
        return future

    def release(self, version: Version) -> None:
        """Gives back what `acquire` gave."""
        with self._lock:
            slot = self._slots[version.sha256]
            slot.users -= 1
            if slot.evict_when_idle and not slot.users and not slot.pinned:
                self._free_slot(version.sha256)
                self._memory.remove(version.sha256)
            admitted = self._admit()
        self._start_binding(admitted)

    def prefetch(self, version: Version) -> None:
        """Loads the adapter into a slot beside the running work, if no other has to be evicted for it."""
        with self._lock:
            if self._queue or not self._has_capacity(version.info.bytes):
                return
        self.ensure_loaded(version)

    def ensure_loaded(self, version: Version) -> Future[BoundAdapter]:
        """Loads the adapter into a slot, and lets it be evicted again as soon as it is there."""
        return self._released_at_once(version, pin=False)

    def pin(self, version: Version) -> Future[BoundAdapter]:
        """Loads the adapter into a slot that is never evicted, until `unpin`."""
        with self._lock:
            if (slot := self._slots.get(version.sha256)) is not None:
                slot.pinned, slot.evict_when_idle = True, False
        return self._released_at_once(version, pin=True)

    def unpin(self, sha256: str) -> None:
        """Lets a pinned adapter be evicted again."""
        with self._lock:
            if (slot := self._slots.get(sha256)) is not None:
                slot.pinned = False
            if (job := self._load_jobs.get(sha256)) is not None:
                job.pinning_futures.clear()
            admitted = self._admit()
        self._start_binding(admitted)

    def unload(self, sha256: str) -> None:
        """Evicts the adapter from its slot (as soon as nobody uses it) and from host memory."""
        with self._lock:
            self._memory.remove(sha256)
            if (job := self._load_jobs.get(sha256)) is not None:
                job.pinning_futures.clear()
                job.evict_when_idle = True
            if (slot := self._slots.get(sha256)) is not None:
                slot.pinned = False
                slot.evict_when_idle = True
                if not slot.users:
                    self._free_slot(sha256)
            admitted = self._admit()
        self._start_binding(admitted)

    def level(self, sha256: str) -> Level:
        """Where the adapter is."""
        with self._lock:
            if sha256 in self._slots:
                return "slot"
            return "memory" if sha256 in self._memory else "disk"

    def is_pinned(self, sha256: str) -> bool:
        """Whether the adapter is pinned in its slot, or will be when it is there."""
        with self._lock:
            slot, job = self._slots.get(sha256), self._load_jobs.get(sha256)
            return (slot is not None and slot.pinned) or (job is not None and bool(job.pinning_futures))

    def stats(self) -> CacheStats:
        """How full the tiers are."""
        with self._lock:
            return CacheStats(
                slots=len(self._slots),
                slot_bytes=self.budget.used,
                memory=len(self._memory),
                memory_bytes=self._memory.used,
                loads=self._loads,
                evictions=self._evictions,
            )

    # ---- disk -> memory

    def _released_at_once(self, version: Version, *, pin: bool) -> Future[BoundAdapter]:
        future: Future[BoundAdapter] = Future()
        self._request(version, future, pin=pin)
        future.add_done_callback(lambda done: self.release(version) if _succeeded(done) else None)
        return future

    def _request(self, version: Version, future: Future[BoundAdapter], *, pin: bool = False) -> None:
        sha = version.sha256
        with self._lock:
            slot = self._slots.get(sha)
            if slot is not None and (pin or not self._must_queue(sha, slot)):
                slot.users += 1
                slot.evict_when_idle = False
                slot.pinned = slot.pinned or pin
                self._slots.move_to_end(sha)
                ready: BoundAdapter | None = slot.bound
            else:
                ready = None
                job = self._load_jobs.get(sha)
                if job is None:
                    job = self._load_jobs[sha] = LoadJob(version)
                    self._threads.submit(self._run_load, job)
                job.futures.append(future)
                job.evict_when_idle = False
                if pin:
                    job.pinning_futures.append(future)
        if ready is None:
            future.add_done_callback(self._admit_if_cancelled)
        elif not _set_result(future, ready):
            self.release(version)

    def _admit_if_cancelled(self, future: Future[BoundAdapter]) -> None:
        """Lets the rest of the queue go on, where the first of it was waited for by this future alone."""
        if not future.cancelled():
            return
        with self._lock:
            admitted = self._admit()
        self._start_binding(admitted)

    def _must_queue(self, sha: str, slot: Slot) -> bool:
        """Whether a request for an adapter in a slot has to queue behind the first that waits for memory.

        Slots that are never idle would starve it. So it may be passed, but not for ever: then as many slots as it
        needs, of those that are asked for, take no new requests. All others answer at once. The lock is held.
        """
        if not self._queue or slot.pinned:
            return False
        first = self._queue[0]
        if first.abandoned:
            return False
        if sha in first.draining:
            return True
        first.draining &= {other for other, resident in self._slots.items() if not resident.pinned}
        draining = [self._slots[other].size for other in first.draining]
        enough = (
            len(self._slots) + self._binding - len(draining) < self._slot_limit
            and self.budget.used - sum(draining) + first.size <= self.budget.limit
        )
        if enough or first.passed < _PASSES:
            first.passed += 1
            return False
        first.draining.add(sha)
        return True

    def _run_load(self, job: LoadJob) -> None:
        """In a loading thread: reads the adapter, and puts the job into the queue for a slot."""
        sha = job.version.sha256
        try:
            with self._lock:
                in_memory = self._memory.get(sha)
            if in_memory is not None:
                adapter = in_memory
            else:
                begin = time.monotonic()
                adapter = self._load(job.version)
                self.on_load(job.version, time.monotonic() - begin)
            size = self._slot_size(adapter)
            if size > self.budget.limit:
                raise TooLarge(
                    f"the adapter {job.version.ref} takes {size} bytes in a slot; all slots together have "
                    f"{self.budget.limit}"
                )
        except Exception as error:
            self._fail(job, error)
            return
        with self._lock:
            self._loads += in_memory is None
            self._memory.put(sha, adapter)
            job.adapter, job.size = adapter, size
            self._queue.append(job)
            admitted = self._admit()
        self._start_binding(admitted)

    # ---- memory -> slot

    def _admit(self) -> list[LoadJob]:
        """Takes jobs from the queue, in order, as far as there is memory. The lock is held; the caller starts them."""
        admitted: list[LoadJob] = []
        while self._queue:
            job = self._queue[0]
            sha = job.version.sha256
            if (resident := self._slots.get(sha)) is not None:
                resident.users += 1
                job.slot = resident
            elif job.abandoned:
                del self._load_jobs[sha]
                if job.evict_when_idle:
                    self._memory.remove(sha)
                self._queue.popleft()
                continue
            elif self._never_fits(job.size):
                job.never_fits = True
            else:
                if not self._reserve(job.size):
                    break
                self._binding += 1
            self._queue.popleft()
            admitted.append(job)
        return admitted

    def _reserve(self, size: int) -> bool:
        """Reserves a slot and its bytes; idle adapters are evicted for it, the longest idle first."""
        idle = self._idle()
        while True:
            slot_is_free = len(self._slots) + self._binding < self._slot_limit
            if slot_is_free and self.budget.reserve(size):
                return True
            if idle:
                self._evict(idle.pop(0))
            else:
                return False

    def _has_capacity(self, size: int) -> bool:
        """Whether an adapter gets a slot without another being evicted."""
        return len(self._slots) + self._binding < self._slot_limit and self.budget.fits(size)

    def _never_fits(self, size: int) -> bool:
        """Whether the pinned adapters alone leave too little. Waiting would hold up everybody behind."""
        pinned = [slot.size for slot in self._slots.values() if slot.pinned]
        return len(pinned) >= self._slot_limit or sum(pinned) + size > self.budget.limit

    def _start_binding(self, jobs: list[LoadJob]) -> None:
        for job in jobs:
            self._threads.submit(self._finish, job)

    def _finish(self, job: LoadJob) -> None:
        """In a loading thread: binds the adapter, and sets the futures of those who wait for it."""
        version = job.version
        if job.never_fits:
            self._fail(
                job, Overloaded(f"there is no slot for {version.ref}: pinned adapters leave no room; unpin some")
            )
            return
        slot = job.slot if job.slot is not None else self._bind_into_slot(job)
        if slot is None:
            return
        with self._lock:
            if job.slot is None:
                self._binding -= 1
                self._slots[version.sha256] = slot
            self._slots.move_to_end(version.sha256)
            self._load_jobs.pop(version.sha256, None)
            slot.evict_when_idle = job.evict_when_idle
            slot.pinned = slot.pinned or any(not future.cancelled() for future in job.pinning_futures)
            slot.users += len(job.futures)
            idle = self._idle()
            while idle and self.budget.used > self.budget.limit:  # it takes more than was estimated
                self._evict(idle.pop(0))
        for future in job.futures:
            if not _set_result(future, slot.bound):
                self.release(version)
        self.release(version)  # the job's own use of it

    def _bind_into_slot(self, job: LoadJob) -> Slot | None:
        """The new slot, with the job as its user; None where binding failed, which the futures then say."""
        assert job.adapter is not None
        try:
            bound = self._bind(job.adapter)
        except Exception as error:
            with self._lock:
                self._binding -= 1
                self.budget.free(job.size)
            self._fail(job, error)
            with self._lock:
                admitted = self._admit()
            self._start_binding(admitted)
            return None
        # A file in 16 bits takes twice its bytes beside a backbone in 32: what it takes is what counts.
        more = max(bound.nbytes - job.size, 0)
        self.budget.add(more)
        return Slot(bound, job.size + more, users=1)

    def _fail(self, job: LoadJob, error: Exception) -> None:
        # Damage was logged when it was found; later requests for the same files must not fill the log with it.
        level = logging.DEBUG if isinstance(error, DamagedStore) else logging.WARNING
        logger.log(level, "the adapter %s cannot be loaded: %s", job.version.ref, error)
        with self._lock:
            self._load_jobs.pop(job.version.sha256, None)
        for future in job.futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _idle(self) -> list[str]:
        """The slots that may be evicted, the longest idle first."""
        return [sha for sha, slot in self._slots.items() if not slot.users and not slot.pinned]

    def _evict(self, sha: str) -> None:
        self._free_slot(sha)
        self._evictions += 1

    def _free_slot(self, sha: str) -> None:
        slot = self._slots.pop(sha)
        self._unbind(slot.bound)
        self.budget.free(slot.size)


def _set_result(future: Future[BoundAdapter], bound: BoundAdapter) -> bool:
    """False where the future was cancelled."""
    if not future.set_running_or_notify_cancel():
        return False
    future.set_result(bound)
    return True


def _succeeded(future: Future[BoundAdapter]) -> bool:
    return not future.cancelled() and future.exception() is None

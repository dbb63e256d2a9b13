"""Where an adapter's weights are: on disk, in host memory, or in a slot, ready to act.

    disk --load--> memory --bind--> slot

Where slots are host memory too, an adapter lies in one of the two, never in both: bound, it only changes from one
account to the other, at once.

Whoever is about to run an adapter acquires it, which keeps it in its slot until it is released. Slots that nobody
uses are evicted in the order of their last use, and leave memory in that order, those asked for often later. Loading
happens in threads of its own, so it never delays running work, and a file that cannot be loaded fails only those who
asked for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from manyhats.core.adapter import Adapter
from manyhats.core.packed_adapter import PackedAdapter
from manyhats.errors import Overloaded, TooLarge
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.budget import MemoryBudget
from manyhats.registry.cache_entries import CacheStats, Level, LoadJob, logged, set_bound, succeeded
from manyhats.registry.host_memory import HostMemory
from manyhats.registry.loading_threads import LoadingThreads
from manyhats.registry.records import Version
from manyhats.registry.slot_space import SlotSpace
from manyhats.registry.slots import Slot


class AdapterCache:
    """`load` reads a version from disk; `bind` puts it on the device; `slot_size` estimates its bytes there.

    Limits: `slots` adapters and `slot_bytes` on the device, `memory_bytes` in host memory. `table_bytes`: what the
    tables of the slots' entries take now, of `slot_bytes` too. `unbind` is called with each adapter that leaves its
    slot, and does not stay bound in memory. `slots_on_host`: whether slots are host memory too.
    """

    def __init__(
        self,
        *,
        load: Callable[[Version], Adapter | PackedAdapter],
        bind: Callable[[Adapter | PackedAdapter], BoundAdapter],
        slot_size: Callable[[Adapter | PackedAdapter], int],
        slots: int,
        slot_bytes: int,
        memory_bytes: int,
        unbind: Callable[[BoundAdapter], None] = lambda bound: None,
        table_bytes: Callable[[], int] = lambda: 0,
        slots_on_host: bool = False,
    ) -> None:
        self.budget = MemoryBudget(slot_bytes, table_bytes)  # of the slots, and of what is being bound
        self._load = load
        self._bind = bind
        self._slot_size: Callable[[Any], int] = slot_size
        self._lock = threading.Lock()
        self._slots_on_host = slots_on_host
        self._memory = HostMemory(memory_bytes, unbind)
        self._space = SlotSpace(slots, self.budget, self._memory, unbind, on_host=slots_on_host)
        self._slots = self._space.slots
        self._load_jobs: dict[str, LoadJob] = {}  # by sha256
        self._queue: deque[LoadJob] = deque()  # those that are loaded, and wait for a slot
        self._loads = 0
        # By where an adapter was that was asked for. What is on its way into a slot counts by where it comes from.
        self.hits: dict[Level, int] = dict.fromkeys(("slot", "memory", "disk"), 0)
        self.slot_limit = slots
        self.on_load: Callable[[Version, float], None] = lambda version, seconds: None
        self.threads = LoadingThreads()

    def close(self) -> None:
        """Ends the loading threads."""
        self.threads.close()

    # ---- requests

    def acquire(self, version: Version) -> Future[BoundAdapter]:
        """The adapter in a slot, to be given back by `release`.

        The future fails with what loading raises, or TooLarge where the adapter is larger than all slots together.
        Cancelling the future before it is done withdraws the request.
        """
        future: Future[BoundAdapter] = Future()
        self._request(version, future)
        return future

    def acquire_resident(self, version: Version) -> BoundAdapter | None:
        """The same at once; None, and nothing is requested, where it has to be waited for."""
        with self._lock:
            slot = self._slots.get(version.sha256)
            if slot is None or self._must_queue(version.sha256, slot):
                return None
            self._slots.use(version.sha256)
            slot.evict_when_idle = False
            self.hits["slot"] += 1
            return slot.bound

    def release(self, version: Version) -> None:
        """Gives back what `acquire` gave."""
        with self._lock:
            slot = self._slots.give_back(version.sha256)
            if slot.evict_when_idle and not slot.users and not slot.pinned:
                self._space.free(version.sha256)
                self._memory.remove(version.sha256)
            admitted = self._admit()
        self._start_binding(admitted)

    def prefetch(self, version: Version) -> None:
        """Loads the adapter into a slot beside the running work, if no other has to be evicted for it."""
        with self._lock:
            if self._queue or not self._space.fits(version.info.bytes):
                return
        self.ensure_loaded(version)

    def ensure_loaded(self, version: Version) -> Future[BoundAdapter]:
        """Loads the adapter into a slot, and lets it be evicted again as soon as it is there."""
        return self._released_at_once(version, pin=False)

    def pin(self, version: Version) -> Future[BoundAdapter]:
        """Loads the adapter into a slot that is never evicted, until `unpin`."""
        with self._lock:
            if (slot := self._slots.get(version.sha256)) is not None:
                slot.evict_when_idle = False
                self._slots.set_pinned(version.sha256, True)
        return self._released_at_once(version, pin=True)

    def unpin(self, sha256: str) -> None:
        """Lets a pinned adapter be evicted again."""
        with self._lock:
            if sha256 in self._slots:
                self._slots.set_pinned(sha256, False)
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
                self._slots.set_pinned(sha256, False)
                slot.evict_when_idle = True
                if not slot.users:
                    self._space.free(sha256)
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

    def resident(self) -> frozenset[str]:
        """The adapters in slots, by sha256."""
        with self._lock:
            return frozenset(self._slots)

    def loading(self) -> list[tuple[str, int]]:
        """The tasks whose adapters are on their way into a slot, and how many requests wait for each."""
        with self._lock:
            return [(job.version.task, len(job.futures)) for job in self._load_jobs.values()]

    def stats(self) -> CacheStats:
        """How full the tiers are."""
        with self._lock:
            return CacheStats(
                slots=len(self._slots),
                slot_bytes=self.budget.in_use,
                slot_bytes_limit=self.budget.total,
                memory=len(self._memory),
                memory_bytes=self._memory.used,
                loads=self._loads,
                evictions=self._space.evictions,
            )

    # ---- disk -> memory

    def _released_at_once(self, version: Version, *, pin: bool) -> Future[BoundAdapter]:
        future: Future[BoundAdapter] = Future()
        self._request(version, future, pin=pin)
        future.add_done_callback(lambda done: self.release(version) if succeeded(done) else None)
        return future

    def _request(self, version: Version, future: Future[BoundAdapter], *, pin: bool = False) -> None:
        sha = version.sha256
        with self._lock:
            job = self._load_jobs.get(sha)
            slot = self._slots.get(sha)
            self.hits["slot" if slot is not None else "memory" if sha in self._memory else "disk"] += 1
            if slot is None and job is None and not self._queue:
                slot = self._take_from_memory(sha)
            if slot is not None and (pin or not self._must_queue(sha, slot)):
                self._slots.use(sha)
                slot.evict_when_idle = False
                if pin:
                    self._slots.set_pinned(sha, True)
                ready: BoundAdapter | None = slot.bound
            else:
                ready = None
                if job is None:
                    job = self._load_jobs[sha] = LoadJob(version)
                    self.threads.then(partial(self._run_load, job), partial(self._lose, job))
                job.futures.append(future)
                job.evict_when_idle = False
                if pin:
                    job.pinning_futures.append(future)
        if ready is None:
            future.add_done_callback(self._admit_if_cancelled)
        elif not set_bound(future, ready):
            self.release(version)

    def _take_from_memory(self, sha: str) -> Slot | None:
        """A slot for an adapter that lies in memory bound, if there is one to be had now. The lock is held."""
        _, bound = self._memory.get(sha)
        if bound is None:
            return None
        asked = self._memory.take(sha)  # else it may be removed for one that is evicted
        if self._space.reserve(bound.nbytes):
            return self._slots.add(sha, Slot(bound, bound.nbytes, asked=asked))
        self._memory.put_bound(sha, bound, asked)
        return None

    def _admit_if_cancelled(self, future: Future[BoundAdapter]) -> None:
        """Lets the rest of the queue go on, where the first of it was waited for by this future alone."""
        if not future.cancelled():
            return
        with self._lock:
            admitted = self._admit()
        self._start_binding(admitted)

    def _must_queue(self, sha: str, slot: Slot) -> bool:
        """Whether a request for an adapter in a slot has to queue behind the first that waits for memory.

        All others answer at once. The lock is held.
        """
        first = self._queue[0] if self._queue else None
        if first is None or slot.pinned or first.abandoned:
            return False
        return first.claims(sha, self._slots, self._space.free_slots, self.budget.limit - self.budget.used)

    def _run_load(self, job: LoadJob) -> None:
        """In a loading thread: reads the adapter and, as soon as there is a slot for it, binds it."""
        sha = job.version.sha256
        with self._lock:
            adapter, job.bound = self._memory.get(sha)
            self._memory.credit(sha, 1)
        read = adapter is None and job.bound is None
        try:
            if read:
                begin = time.monotonic()
                adapter = self._load(job.version)
                self.on_load(job.version, time.monotonic() - begin)
            size = self._slot_size(adapter) if job.bound is None else job.bound.nbytes
            if size > self.budget.limit:
                raise TooLarge(
                    f"the adapter {job.version.ref} takes {size} bytes in a slot; all slots together have "
                    f"{self.budget.limit}"
                )
        except BaseException as error:  # else nobody would ever tell those who wait
            self._fail(job, error)
            return
        with self._lock:
            self._loads += read
            if adapter is not None and not self._slots_on_host:
                self._memory.put(sha, adapter)
            job.adapter, job.size = adapter, size
            self._queue.append(job)
            admitted = self._admit()
        others = [one for one in admitted if one is not job]
        self._start_binding(others)
        if len(others) < len(admitted):  # another thread would begin later
            self._finish(job)

    # ---- memory -> slot

    def _admit(self) -> list[LoadJob]:
        """Takes jobs from the queue, in order, as far as there is memory. The lock is held; the caller starts them."""
        admitted: list[LoadJob] = []
        while self._queue:
            job = self._queue[0]
            sha = job.version.sha256
            if (resident := self._slots.get(sha)) is not None:
                self._slots.use(sha)
                job.slot = resident
            elif job.abandoned:
                del self._load_jobs[sha]
                if job.evict_when_idle:
                    self._memory.remove(sha)
                self._queue.popleft()
                continue
            elif self._space.never_fits(job.size):
                job.never_fits = True
            else:
                if not self._space.reserve(job.size):
                    break
                self._space.binding += 1
                job.reserved = True
            self._queue.popleft()
            admitted.append(job)
        return admitted

    def _start_binding(self, jobs: list[LoadJob]) -> None:
        for job in jobs:
            self.threads.first(partial(self._finish, job), partial(self._lose, job))

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
                self._space.binding -= 1
                job.reserved = False
                self._slots.add(version.sha256, slot)
                # From here on only further requests count: that which had it loaded says nothing about the next.
                slot.asked = (self._memory.take(version.sha256) if self._slots_on_host else 0) - len(job.futures)
            self._load_jobs.pop(version.sha256, None)
            slot.evict_when_idle = job.evict_when_idle
            if not all(future.cancelled() for future in job.pinning_futures):
                self._slots.set_pinned(version.sha256, True)
            self._slots.use(version.sha256, len(job.futures))
            self._space.shrink()  # it may take more than was estimated
        for future in job.futures:
            if not set_bound(future, slot.bound):
                self.release(version)
        self.release(version)  # the job's own use of it

    def _bind_into_slot(self, job: LoadJob) -> Slot | None:
        """The new slot, with the job as its user; None where binding failed, which the futures then say."""
        if job.bound is not None:
            return Slot(job.bound, job.size, users=1)
        assert job.adapter is not None
        try:
            bound = self._bind(job.adapter)
        except BaseException as error:
            with self._lock:
                self._free_reserved(job)
                admitted = self._admit()
            self._fail(job, error)
            self._start_binding(admitted)
            return None
        # A file in 16 bits takes twice its bytes beside a backbone in 32, one in 32 half of them beside one in 16: what
        # it takes is what counts. On a device that is never less than was allocated.
        size = bound.nbytes if self._slots_on_host else max(bound.nbytes, job.size)
        self.budget.add(size - job.size)
        return Slot(bound, size, users=1)

    def _lose(self, job: LoadJob, error: BaseException) -> None:
        """The thread that loaded or bound the adapter has failed elsewhere, or died."""
        with self._lock:
            with suppress(ValueError):
                self._queue.remove(job)
            self._free_reserved(job)
            admitted = self._admit()
        self._fail(job, error)
        self._start_binding(admitted)

    def _free_reserved(self, job: LoadJob) -> None:
        """Gives back the place in a slot that a job got, and did not fill. The lock is held."""
        if job.reserved:
            job.reserved = False
            self._space.binding -= 1
            self.budget.free(job.size)
        elif job.slot is not None and self._load_jobs.get(job.version.sha256) is job:
            self._slots.give_back(job.version.sha256)

    def _fail(self, job: LoadJob, error: BaseException) -> None:
        error = logged(job.version, error)
        with self._lock:
            self._load_jobs.pop(job.version.sha256, None)
        for future in job.futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

"""The adapter cache: who gets a slot, who is evicted, and that everything is given back."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import pytest
from manyhats.errors import InvalidRequest, Overloaded, TooLarge
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import AdapterInfo, Version

PATIENCE = 60.0


@dataclass
class Named:
    """Stands for an adapter, and for one that is bound."""

    name: str
    nbytes: int


def version(name: str, size: int = 10) -> Version:
    info = AdapterInfo("lora", "embed", 1, 1, size, None, None, None, {})
    return Version(name, 1, f"sha-{name}", info, 0.0)


class Disk:
    """What adapters are read from. Reading can be held, and can fail."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.binds: Counter[str] = Counter()
        self.failing: dict[str, Exception] = {}
        self.failing_bind: dict[str, Exception] = {}
        self.held: dict[str, threading.Event] = {}
        self.started: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def hold(self, name: str) -> threading.Event:
        """Reading `name` waits for the event that is returned."""
        self.started[name] = threading.Event()
        self.held[name] = threading.Event()
        return self.held[name]

    def load(self, wanted: Version) -> Any:
        with self._lock:
            self.loads[wanted.task] += 1
        if wanted.task in self.held:
            self.started[wanted.task].set()
            assert self.held[wanted.task].wait(PATIENCE)
        if wanted.task in self.failing:
            raise self.failing[wanted.task]
        return Named(wanted.task, wanted.info.bytes)

    def bind(self, adapter: Any) -> Any:
        with self._lock:
            self.binds[adapter.name] += 1
        if adapter.name in self.failing_bind:
            raise self.failing_bind[adapter.name]
        return Named(adapter.name, adapter.nbytes)


@pytest.fixture
def disk() -> Disk:
    """An empty record of reads."""
    return Disk()


Make = Callable[..., AdapterCache]


@pytest.fixture
def make_cache(disk: Disk) -> Iterator[Make]:
    """Makes adapter caches, and closes them."""
    made: list[AdapterCache] = []

    def make(slots: int = 4, slot_bytes: int = 1000, memory_bytes: int = 1000) -> AdapterCache:
        one = AdapterCache(
            load=disk.load,
            bind=disk.bind,
            slot_size=lambda adapter: adapter.nbytes,
            slots=slots,
            slot_bytes=slot_bytes,
            memory_bytes=memory_bytes,
        )
        made.append(one)
        return one

    yield make
    for event in disk.held.values():
        event.set()
    for one in made:
        one.close()


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.002)


def got(future: Future[Any]) -> Any:
    return future.result(PATIENCE)


def use(adapter_cache: AdapterCache, wanted: Version) -> None:
    assert got(adapter_cache.acquire(wanted)).name == wanted.task
    adapter_cache.release(wanted)


def users(adapter_cache: AdapterCache) -> int:
    return sum(slot.users for slot in adapter_cache._slots.values())


def idle(adapter_cache: AdapterCache) -> bool:
    """Nobody uses anything, nothing is on its way, and the accounts agree."""
    with adapter_cache._lock:
        return (
            not sum(slot.users for slot in adapter_cache._slots.values())
            and not adapter_cache._load_jobs
            and not adapter_cache._queue
            and adapter_cache._space.binding == 0
            and adapter_cache.budget.used == sum(slot.size for slot in adapter_cache._slots.values())
            and adapter_cache._memory.used == sum(entry.size for entry in adapter_cache._memory._entries.values())
        )


A, B, C, D = (version(name) for name in "abcd")


# ---- loading


def test_an_adapter_is_read_once_for_all_who_wait(make_cache, disk):
    adapter_cache = make_cache()
    let = disk.hold("a")
    futures = [adapter_cache.acquire(A) for _ in range(20)]
    assert disk.started["a"].wait(PATIENCE)
    assert not any(future.done() for future in futures)
    assert adapter_cache.level(A.sha256) == "disk"
    let.set()
    assert len({id(got(future)) for future in futures}) == 1
    wait_until(lambda: users(adapter_cache) == 20)
    assert (disk.loads, disk.binds) == ({"a": 1}, {"a": 1})
    assert adapter_cache.level(A.sha256) == "slot"
    assert adapter_cache.stats().loads == 1
    for _ in futures:
        adapter_cache.release(A)
    assert idle(adapter_cache)
    assert adapter_cache.acquire(A).done()  # at once, with no thread between


def test_the_time_of_reading_is_reported(make_cache):
    adapter_cache = make_cache()
    loads: list[tuple[str, float]] = []
    adapter_cache.on_load = lambda loaded, seconds: loads.append((loaded.ref, seconds))
    use(adapter_cache, A)
    use(adapter_cache, A)
    assert [ref for ref, _ in loads] == ["a@1"]
    assert loads[0][1] >= 0


def test_a_failing_load_fails_only_those_who_wait_for_it_and_can_be_tried_again(make_cache, disk):
    adapter_cache = make_cache()
    disk.failing["a"] = InvalidRequest("damaged")
    let = disk.hold("a")
    futures = [adapter_cache.acquire(A) for _ in range(3)]
    use(adapter_cache, B)
    let.set()
    for future in futures:
        with pytest.raises(InvalidRequest, match="damaged"):
            got(future)
    wait_until(lambda: idle(adapter_cache))
    assert adapter_cache.level(A.sha256) == "disk"
    disk.failing.clear()
    use(adapter_cache, A)
    assert disk.loads["a"] == 2


def test_a_failing_bind_frees_its_slot(make_cache, disk):
    adapter_cache = make_cache(slots=1)
    disk.failing_bind["a"] = RuntimeError("no memory")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no memory"):
            got(adapter_cache.acquire(A))
    use(adapter_cache, B)
    disk.failing_bind.clear()
    use(adapter_cache, A)
    wait_until(lambda: idle(adapter_cache))
    assert disk.loads["a"] == 1  # its copy in memory stayed


def test_an_adapter_larger_than_all_slots_is_refused(make_cache):
    adapter_cache = make_cache(slot_bytes=100)
    big = version("big", 101)
    with pytest.raises(TooLarge, match=r"big@1.*101.*100"):
        got(adapter_cache.acquire(big))
    use(adapter_cache, version("fits", 100))
    wait_until(lambda: idle(adapter_cache))


# ---- capacity


def test_the_least_recently_used_leaves(make_cache, disk):
    adapter_cache = make_cache(slots=2)
    for wanted in (A, B, A, C):
        use(adapter_cache, wanted)
    assert [adapter_cache.level(v.sha256) for v in (A, B, C)] == ["slot", "memory", "slot"]
    use(adapter_cache, B)
    assert [adapter_cache.level(v.sha256) for v in (A, B, C)] == ["memory", "slot", "slot"]
    assert disk.loads == {"a": 1, "b": 1, "c": 1}
    assert adapter_cache.stats().evictions == 2


def test_the_bytes_of_slots_are_bounded(make_cache):
    adapter_cache = make_cache(slots=100, slot_bytes=100)
    for i in range(10):
        use(adapter_cache, version(f"v{i}", 30))
        assert adapter_cache.stats().slot_bytes <= 100
    assert adapter_cache.stats().slots == 3
    use(adapter_cache, version("large", 95))
    assert adapter_cache.stats().slots == 1


def test_what_is_evicted_is_unbound_and_frees_its_bytes(disk):
    left: list[str] = []
    adapter_cache = AdapterCache(
        load=disk.load,
        bind=disk.bind,
        slot_size=lambda adapter: adapter.nbytes,
        slots=9,
        slot_bytes=100,
        memory_bytes=100,
        unbind=lambda bound: left.append(bound.name),
    )
    for wanted in (A, B):
        use(adapter_cache, wanted)
    use(adapter_cache, version("large", 95))
    assert left == ["a", "b"]
    assert adapter_cache.budget.used == adapter_cache.stats().slot_bytes == 95
    adapter_cache.unload("sha-large")
    assert left[-1] == "large"
    assert adapter_cache.budget.used == 0
    adapter_cache.close()


def test_an_adapter_that_takes_more_than_was_estimated_counts_as_what_it_takes(make_cache, disk, monkeypatch):
    adapter_cache = make_cache(slots=9, slot_bytes=100)
    monkeypatch.setattr(adapter_cache, "_slot_size", lambda adapter: adapter.nbytes // 2)
    for name in "abc":
        use(adapter_cache, version(name, 40))
        wait_until(lambda: idle(adapter_cache))
    assert adapter_cache.stats().slot_bytes == 80
    assert adapter_cache.stats().slots == 2


def test_the_bytes_of_memory_are_bounded(make_cache, disk):
    adapter_cache = make_cache(slots=1, memory_bytes=25)
    for wanted in (A, B, C):
        use(adapter_cache, wanted)
        assert adapter_cache.stats().memory_bytes <= 25
    assert [adapter_cache.level(v.sha256) for v in (A, B, C)] == ["disk", "memory", "slot"]
    use(adapter_cache, A)
    assert disk.loads["a"] == 2


def test_an_adapter_in_use_never_leaves(make_cache):
    adapter_cache = make_cache(slots=2)
    held = got(adapter_cache.acquire(A))
    for wanted in (B, C, D, B):
        use(adapter_cache, wanted)
    assert adapter_cache.level(A.sha256) == "slot"
    assert got(adapter_cache.acquire(A)) is held
    adapter_cache.release(A)
    adapter_cache.release(A)


def test_who_comes_last_waits_for_a_slot(make_cache):
    adapter_cache = make_cache(slots=1)
    got(adapter_cache.acquire(A))
    future = adapter_cache.acquire(B)
    wait_until(lambda: adapter_cache._queue)
    assert not future.done()
    adapter_cache.release(A)
    assert got(future).name == "b"
    adapter_cache.release(B)


def test_a_cold_adapter_gets_its_slot_though_the_hot_ones_are_always_in_use(make_cache):
    adapter_cache = make_cache(slots=2)
    got(adapter_cache.acquire(A))
    got(adapter_cache.acquire(B))
    cold = adapter_cache.acquire(C)
    wait_until(lambda: adapter_cache._queue)
    # The hot ones are asked for again before they are given back: they would never be idle.
    later = []
    for wanted in (A, B):
        later.append((wanted, adapter_cache.acquire(wanted)))
        adapter_cache.release(wanted)
    assert got(cold).name == "c"
    adapter_cache.release(C)
    for wanted, future in later:
        assert got(future).name == wanted.task
        adapter_cache.release(wanted)
    wait_until(lambda: idle(adapter_cache))


def test_under_steady_traffic_every_adapter_has_its_turn(make_cache):
    adapter_cache = make_cache(slots=2)
    turns: Counter[str] = Counter()
    stop = threading.Event()
    threads = []

    def traffic(wanted: Version) -> None:
        ahead = adapter_cache.acquire(wanted)
        while not stop.is_set():
            got(ahead)
            turns[wanted.task] += 1
            ahead = adapter_cache.acquire(wanted)
            adapter_cache.release(wanted)
        got(ahead)
        adapter_cache.release(wanted)

    for wanted in (A, B, C, D):
        threads.append(threading.Thread(target=traffic, args=(wanted,)))
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(turns[name] > 20 for name in "abcd"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wait_until(lambda: idle(adapter_cache))


# ---- requests withdrawn


def test_a_request_that_is_withdrawn_while_it_is_read_leaks_nothing(make_cache, disk):
    adapter_cache = make_cache()
    let = disk.hold("a")
    gone, stays = adapter_cache.acquire(A), adapter_cache.acquire(A)
    assert disk.started["a"].wait(PATIENCE)
    assert gone.cancel()
    let.set()
    assert got(stays).name == "a"
    wait_until(lambda: users(adapter_cache) == 1)
    adapter_cache.release(A)
    assert idle(adapter_cache)
    with pytest.raises(CancelledError):
        gone.result(0)


def test_a_load_that_everybody_has_withdrawn_from_delays_nobody(make_cache, disk):
    adapter_cache = make_cache(slots=1)
    got(adapter_cache.acquire(A))
    gone, next_one = adapter_cache.acquire(B), None
    wait_until(lambda: adapter_cache._queue)
    next_one = adapter_cache.acquire(C)
    wait_until(lambda: len(adapter_cache._queue) == 2)
    gone.cancel()
    adapter_cache.release(A)
    assert got(next_one).name == "c"
    adapter_cache.release(C)
    wait_until(lambda: idle(adapter_cache))
    assert "b" not in disk.binds
    use(adapter_cache, B)


def test_what_lies_in_a_slot_answers_at_once_though_another_waits_for_memory(make_cache):
    adapter_cache = make_cache(slots=3)
    got(adapter_cache.pin(D))
    for wanted in (A, B):
        got(adapter_cache.acquire(wanted))
    cold = adapter_cache.acquire(C)
    wait_until(lambda: adapter_cache._queue)
    for _ in range(20):
        assert adapter_cache.acquire(D).done()  # pinned: it will never make space
    first, second = adapter_cache.acquire(A), adapter_cache.acquire(A)
    assert first.done()
    assert not second.done()  # else A would never be idle, and C starve
    for _ in range(20):
        assert adapter_cache.acquire(B).done()  # A alone makes space for C
    for _ in range(2):
        adapter_cache.release(A)
    assert got(cold).name == "c"
    adapter_cache.release(C)
    assert got(second).name == "a"


def test_what_lies_in_the_only_slot_answers_at_once_when_who_waited_has_gone(make_cache):
    adapter_cache = make_cache(slots=1)
    got(adapter_cache.acquire(A))
    cold = adapter_cache.acquire(B)
    wait_until(lambda: adapter_cache._queue)
    assert adapter_cache.acquire(A).done()
    behind = adapter_cache.acquire(A)
    assert not behind.done()
    cold.cancel()
    assert got(behind).name == "a"
    wait_until(lambda: not adapter_cache._queue)
    assert adapter_cache.acquire(A).done()
    assert users(adapter_cache) == 4


# ---- pin, unpin, unload


def test_a_pinned_adapter_stays(make_cache):
    adapter_cache = make_cache(slots=2)
    got(adapter_cache.pin(A))
    wait_until(lambda: users(adapter_cache) == 0)
    assert adapter_cache.is_pinned(A.sha256)
    for wanted in (B, C, D):
        use(adapter_cache, wanted)
    assert adapter_cache.level(A.sha256) == "slot"
    adapter_cache.unpin(A.sha256)
    assert not adapter_cache.is_pinned(A.sha256)
    for wanted in (B, C):
        use(adapter_cache, wanted)
    assert adapter_cache.level(A.sha256) == "memory"


def test_pinning_what_is_there_and_what_is_used(make_cache):
    adapter_cache = make_cache(slots=1)
    got(adapter_cache.acquire(A))
    assert got(adapter_cache.pin(A)).name == "a"
    assert got(adapter_cache.pin(A)).name == "a"
    adapter_cache.release(A)
    assert users(adapter_cache) == 0
    assert adapter_cache.is_pinned(A.sha256)
    adapter_cache.unpin(A.sha256)
    use(adapter_cache, B)


def test_where_pinned_adapters_leave_no_capacity_the_others_are_refused(make_cache):
    adapter_cache = make_cache(slots=2, slot_bytes=100)
    got(adapter_cache.pin(version("large", 85)))
    use(adapter_cache, A)
    with pytest.raises(Overloaded, match="pinned"):
        got(adapter_cache.acquire(version("other", 20)))
    got(adapter_cache.pin(A))
    for future in (adapter_cache.acquire(B), adapter_cache.pin(C)):
        with pytest.raises(Overloaded, match="pinned"):
            got(future)
    use(adapter_cache, A)
    adapter_cache.unpin(A.sha256)
    use(adapter_cache, B)
    wait_until(lambda: idle(adapter_cache))


def test_a_pin_that_is_given_up_pins_nothing(make_cache, disk):
    adapter_cache = make_cache()
    let = disk.hold("a")
    future, asked = adapter_cache.pin(A), adapter_cache.acquire(A)
    assert disk.started["a"].wait(PATIENCE)
    future.cancel()
    let.set()
    got(asked)
    adapter_cache.release(A)
    wait_until(lambda: idle(adapter_cache))
    assert not adapter_cache.is_pinned(A.sha256)


def test_unload_gives_back_both_tiers(make_cache):
    adapter_cache = make_cache()
    use(adapter_cache, A)
    before = adapter_cache.stats()
    assert (before.slots, before.slot_bytes, before.memory, before.memory_bytes) == (1, 10, 1, 10)
    adapter_cache.unload(A.sha256)
    after = adapter_cache.stats()
    assert (after.slots, after.slot_bytes, after.memory, after.memory_bytes) == (0, 0, 0, 0)
    assert adapter_cache.level(A.sha256) == "disk"
    adapter_cache.unload(A.sha256)
    adapter_cache.unpin(A.sha256)
    adapter_cache.unload("never-there")


def test_unload_under_use_waits_for_the_last_user(make_cache):
    adapter_cache = make_cache()
    got(adapter_cache.acquire(A))
    got(adapter_cache.acquire(A))
    adapter_cache.unload(A.sha256)
    adapter_cache.release(A)
    assert adapter_cache.level(A.sha256) == "slot"
    adapter_cache.release(A)
    assert adapter_cache.level(A.sha256) == "disk"
    assert adapter_cache.stats().memory == 0


def test_unload_while_it_is_read_lets_those_finish_who_wait(make_cache, disk):
    adapter_cache = make_cache()
    let = disk.hold("a")
    future = adapter_cache.acquire(A)
    assert disk.started["a"].wait(PATIENCE)
    adapter_cache.unload(A.sha256)
    let.set()
    assert got(future).name == "a"
    adapter_cache.release(A)
    wait_until(lambda: adapter_cache.level(A.sha256) == "disk")
    assert idle(adapter_cache)
    assert adapter_cache.stats().memory == 0


def test_unload_takes_a_pin_away(make_cache):
    adapter_cache = make_cache()
    got(adapter_cache.pin(A))
    wait_until(lambda: users(adapter_cache) == 0)
    adapter_cache.unload(A.sha256)
    assert adapter_cache.level(A.sha256) == "disk"
    assert not adapter_cache.is_pinned(A.sha256)


def test_prefetch_pushes_nobody_out(make_cache, disk):
    adapter_cache = make_cache(slots=2)
    adapter_cache.prefetch(A)
    wait_until(lambda: adapter_cache.level(A.sha256) == "slot" and idle(adapter_cache))
    use(adapter_cache, B)
    adapter_cache.prefetch(C)
    assert [adapter_cache.level(v.sha256) for v in (A, B, C)] == ["slot", "slot", "disk"]
    assert "c" not in disk.loads


# ---- anything at once


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_at_once_everything_is_given_back(make_cache, disk, seed):
    adapter_cache = make_cache(slots=3, slot_bytes=65, memory_bytes=50)
    versions = [version(f"v{i}", 5 + 5 * i) for i in range(7)]
    disk.failing["v6"] = InvalidRequest("damaged")
    errors: list[BaseException] = []

    def go(chance: random.Random) -> None:
        try:
            for _ in range(150):
                wanted = chance.choice(versions)
                match chance.choice(["use"] * 6 + ["hold", "give up", "pin", "unload", "load", "prefetch", "look"]):
                    case "use" | "hold" as how:
                        future = adapter_cache.acquire(wanted)
                        try:
                            assert got(future).name == wanted.task
                        except (InvalidRequest, Overloaded):
                            continue
                        if how == "hold":
                            time.sleep(chance.random() / 500)
                        assert adapter_cache.level(wanted.sha256) == "slot"
                        adapter_cache.release(wanted)
                    case "give up":
                        future = adapter_cache.acquire(wanted)
                        if not future.cancel():
                            future.add_done_callback(
                                lambda done, wanted=wanted: done.exception() or adapter_cache.release(wanted)
                            )
                    case "pin":
                        adapter_cache.pin(wanted)
                        adapter_cache.unpin(wanted.sha256)
                        adapter_cache.unpin(chance.choice(versions).sha256)
                    case "unload":
                        adapter_cache.unload(wanted.sha256)
                    case "load":
                        adapter_cache.ensure_loaded(wanted)
                    case "prefetch":
                        adapter_cache.prefetch(wanted)
                    case "look":
                        stats = adapter_cache.stats()
                        assert stats.slots <= 3
                        assert stats.slot_bytes <= 65
                        assert stats.memory_bytes <= 50
        except BaseException as error:
            errors.append(error)

    stop = threading.Event()

    def unpinning() -> None:
        while not stop.wait(0.002):
            for wanted in versions:
                adapter_cache.unpin(wanted.sha256)

    janitor = threading.Thread(target=unpinning)
    janitor.start()
    threads = [threading.Thread(target=go, args=(random.Random(seed * 100 + i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[:3]
    wait_until(lambda: idle(adapter_cache))
    stop.set()
    janitor.join()
    for wanted in versions[:6]:
        adapter_cache.unload(wanted.sha256)
    assert adapter_cache.stats().slots == adapter_cache.stats().slot_bytes == 0
    assert adapter_cache.stats().memory == adapter_cache.stats().memory_bytes == 0
    use(adapter_cache, versions[5])

"""The tiers: who gets a slot, who gives one up, and that everything is given back."""

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
class Worn:
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
        self.begun: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def hold(self, name: str) -> threading.Event:
        """Reading `name` waits for the event that is returned."""
        self.begun[name] = threading.Event()
        self.held[name] = threading.Event()
        return self.held[name]

    def load(self, wanted: Version) -> Any:
        with self._lock:
            self.loads[wanted.task] += 1
        if wanted.task in self.held:
            self.begun[wanted.task].set()
            assert self.held[wanted.task].wait(PATIENCE)
        if wanted.task in self.failing:
            raise self.failing[wanted.task]
        return Worn(wanted.task, wanted.info.bytes)

    def bind(self, adapter: Any) -> Any:
        with self._lock:
            self.binds[adapter.name] += 1
        if adapter.name in self.failing_bind:
            raise self.failing_bind[adapter.name]
        return Worn(adapter.name, adapter.nbytes)


@pytest.fixture
def disk() -> Disk:
    """An empty record of reads."""
    return Disk()


Make = Callable[..., AdapterCache]


@pytest.fixture
def tiers(disk: Disk) -> Iterator[Make]:
    """Makes residencies, and closes them."""
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


def use(residency: AdapterCache, wanted: Version) -> None:
    assert got(residency.acquire(wanted)).name == wanted.task
    residency.release(wanted)


def users(residency: AdapterCache) -> int:
    return sum(slot.users for slot in residency._slots.values())


def idle(residency: AdapterCache) -> bool:
    """Nobody uses anything, nothing is on its way, and the accounts agree."""
    with residency._lock:
        return (
            not sum(slot.users for slot in residency._slots.values())
            and not residency._arrivals
            and not residency._queue
            and residency._binding == residency._reserved == 0
            and residency.budget.used == sum(slot.size for slot in residency._slots.values())
            and residency._memory_used == sum(size for _, size in residency._memory.values())
        )


A, B, C, D = (version(name) for name in "abcd")


# ---- loading


def test_an_adapter_is_read_once_for_all_who_wait(tiers, disk):
    residency = tiers()
    let = disk.hold("a")
    wishes = [residency.acquire(A) for _ in range(20)]
    assert disk.begun["a"].wait(PATIENCE)
    assert not any(wish.done() for wish in wishes)
    assert residency.level(A.sha256) == "disk"
    let.set()
    assert len({id(got(wish)) for wish in wishes}) == 1
    wait_until(lambda: users(residency) == 20)
    assert (disk.loads, disk.binds) == ({"a": 1}, {"a": 1})
    assert residency.level(A.sha256) == "slot"
    assert residency.stats().loads == 1
    for _ in wishes:
        residency.release(A)
    assert idle(residency)
    assert residency.acquire(A).done()  # at once, with no thread between


def test_the_time_of_reading_is_told(tiers):
    residency = tiers()
    told: list[tuple[str, float]] = []
    residency.on_load = lambda loaded, seconds: told.append((loaded.ref, seconds))
    use(residency, A)
    use(residency, A)
    assert [ref for ref, _ in told] == ["a@1"]
    assert told[0][1] >= 0


def test_a_failing_load_fails_only_those_who_wait_for_it_and_can_be_tried_again(tiers, disk):
    residency = tiers()
    disk.failing["a"] = InvalidRequest("damaged")
    let = disk.hold("a")
    wishes = [residency.acquire(A) for _ in range(3)]
    use(residency, B)
    let.set()
    for wish in wishes:
        with pytest.raises(InvalidRequest, match="damaged"):
            got(wish)
    wait_until(lambda: idle(residency))
    assert residency.level(A.sha256) == "disk"
    disk.failing.clear()
    use(residency, A)
    assert disk.loads["a"] == 2


def test_a_failing_bind_gives_its_room_back(tiers, disk):
    residency = tiers(slots=1)
    disk.failing_bind["a"] = RuntimeError("no memory")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no memory"):
            got(residency.acquire(A))
    use(residency, B)
    disk.failing_bind.clear()
    use(residency, A)
    wait_until(lambda: idle(residency))
    assert disk.loads["a"] == 1  # its copy in memory stayed


def test_an_adapter_larger_than_all_slots_is_told(tiers):
    residency = tiers(slot_bytes=100)
    big = version("big", 101)
    with pytest.raises(TooLarge, match=r"big@1.*101.*100"):
        got(residency.acquire(big))
    use(residency, version("fits", 100))
    wait_until(lambda: idle(residency))


# ---- room


def test_the_least_recently_used_leaves(tiers, disk):
    residency = tiers(slots=2)
    for wanted in (A, B, A, C):
        use(residency, wanted)
    assert [residency.level(v.sha256) for v in (A, B, C)] == ["slot", "memory", "slot"]
    use(residency, B)
    assert [residency.level(v.sha256) for v in (A, B, C)] == ["memory", "slot", "slot"]
    assert disk.loads == {"a": 1, "b": 1, "c": 1}
    assert residency.stats().evictions == 2


def test_the_bytes_of_slots_are_bounded(tiers):
    residency = tiers(slots=100, slot_bytes=100)
    for i in range(10):
        use(residency, version(f"v{i}", 30))
        assert residency.stats().slot_bytes <= 100
    assert residency.stats().slots == 3
    use(residency, version("large", 95))
    assert residency.stats().slots == 1


def test_who_leaves_is_told_and_gives_its_bytes_back(disk):
    left: list[str] = []
    residency = AdapterCache(
        load=disk.load,
        bind=disk.bind,
        slot_size=lambda adapter: adapter.nbytes,
        slots=9,
        slot_bytes=100,
        memory_bytes=100,
        unbind=lambda bound: left.append(bound.name),
    )
    for wanted in (A, B):
        use(residency, wanted)
    use(residency, version("large", 95))
    assert left == ["a", "b"]
    assert residency.budget.used == residency.stats().slot_bytes == 95
    residency.unload("sha-large")
    assert left[-1] == "large"
    assert residency.budget.used == 0
    residency.close()


def test_an_adapter_that_takes_more_than_was_foretold_counts_as_what_it_takes(tiers, disk, monkeypatch):
    residency = tiers(slots=9, slot_bytes=100)
    monkeypatch.setattr(residency, "_slot_size", lambda adapter: adapter.nbytes // 2)
    for name in "abc":
        use(residency, version(name, 40))
        wait_until(lambda: idle(residency))
    assert residency.stats().slot_bytes == 80
    assert residency.stats().slots == 2


def test_the_bytes_of_memory_are_bounded(tiers, disk):
    residency = tiers(slots=1, memory_bytes=25)
    for wanted in (A, B, C):
        use(residency, wanted)
        assert residency.stats().memory_bytes <= 25
    assert [residency.level(v.sha256) for v in (A, B, C)] == ["disk", "memory", "slot"]
    use(residency, A)
    assert disk.loads["a"] == 2


def test_an_adapter_in_use_never_leaves(tiers):
    residency = tiers(slots=2)
    held = got(residency.acquire(A))
    for wanted in (B, C, D, B):
        use(residency, wanted)
    assert residency.level(A.sha256) == "slot"
    assert got(residency.acquire(A)) is held
    residency.release(A)
    residency.release(A)


def test_who_comes_last_waits_for_a_slot(tiers):
    residency = tiers(slots=1)
    got(residency.acquire(A))
    wish = residency.acquire(B)
    wait_until(lambda: residency._queue)
    assert not wish.done()
    residency.release(A)
    assert got(wish).name == "b"
    residency.release(B)


def test_a_cold_adapter_gets_its_slot_though_the_hot_ones_are_always_in_use(tiers):
    residency = tiers(slots=2)
    got(residency.acquire(A))
    got(residency.acquire(B))
    cold = residency.acquire(C)
    wait_until(lambda: residency._queue)
    # The hot ones are asked for again before they are given back: they would never be idle.
    later = []
    for wanted in (A, B):
        later.append((wanted, residency.acquire(wanted)))
        residency.release(wanted)
    assert got(cold).name == "c"
    residency.release(C)
    for wanted, wish in later:
        assert got(wish).name == wanted.task
        residency.release(wanted)
    wait_until(lambda: idle(residency))


def test_under_steady_traffic_every_adapter_has_its_turn(tiers):
    residency = tiers(slots=2)
    turns: Counter[str] = Counter()
    stop = threading.Event()
    threads = []

    def traffic(wanted: Version) -> None:
        ahead = residency.acquire(wanted)
        while not stop.is_set():
            got(ahead)
            turns[wanted.task] += 1
            ahead = residency.acquire(wanted)
            residency.release(wanted)
        got(ahead)
        residency.release(wanted)

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
    wait_until(lambda: idle(residency))


# ---- wishes given up


def test_a_wish_that_is_given_up_while_it_is_read_leaks_nothing(tiers, disk):
    residency = tiers()
    let = disk.hold("a")
    gone, stays = residency.acquire(A), residency.acquire(A)
    assert disk.begun["a"].wait(PATIENCE)
    assert gone.cancel()
    let.set()
    assert got(stays).name == "a"
    wait_until(lambda: users(residency) == 1)
    residency.release(A)
    assert idle(residency)
    with pytest.raises(CancelledError):
        gone.result(0)


def test_a_wish_that_everybody_has_given_up_holds_up_nobody(tiers, disk):
    residency = tiers(slots=1)
    got(residency.acquire(A))
    gone, next_one = residency.acquire(B), None
    wait_until(lambda: residency._queue)
    next_one = residency.acquire(C)
    wait_until(lambda: len(residency._queue) == 2)
    gone.cancel()
    residency.release(A)
    assert got(next_one).name == "c"
    residency.release(C)
    wait_until(lambda: idle(residency))
    assert "b" not in disk.binds
    use(residency, B)


def test_what_lies_in_a_slot_answers_at_once_though_another_waits_for_room(tiers):
    residency = tiers(slots=3)
    got(residency.pin(D))
    for wanted in (A, B):
        got(residency.acquire(wanted))
    cold = residency.acquire(C)
    wait_until(lambda: residency._queue)
    for _ in range(20):
        assert residency.acquire(D).done()  # pinned: it will never make room
    first, second = residency.acquire(A), residency.acquire(A)
    assert first.done()
    assert not second.done()  # else A would never be idle, and C starve
    for _ in range(20):
        assert residency.acquire(B).done()  # A alone makes room for C
    for _ in range(2):
        residency.release(A)
    assert got(cold).name == "c"
    residency.release(C)
    assert got(second).name == "a"


def test_what_lies_in_the_only_slot_answers_at_once_when_who_waited_has_gone(tiers):
    residency = tiers(slots=1)
    got(residency.acquire(A))
    cold = residency.acquire(B)
    wait_until(lambda: residency._queue)
    assert residency.acquire(A).done()
    behind = residency.acquire(A)
    assert not behind.done()
    cold.cancel()
    assert got(behind).name == "a"
    wait_until(lambda: not residency._queue)
    assert residency.acquire(A).done()
    assert users(residency) == 4


# ---- pin, unpin, unload


def test_a_pinned_adapter_stays(tiers):
    residency = tiers(slots=2)
    got(residency.pin(A))
    wait_until(lambda: users(residency) == 0)
    assert residency.is_pinned(A.sha256)
    for wanted in (B, C, D):
        use(residency, wanted)
    assert residency.level(A.sha256) == "slot"
    residency.unpin(A.sha256)
    assert not residency.is_pinned(A.sha256)
    for wanted in (B, C):
        use(residency, wanted)
    assert residency.level(A.sha256) == "memory"


def test_pinning_what_is_there_and_what_is_used(tiers):
    residency = tiers(slots=1)
    got(residency.acquire(A))
    assert got(residency.pin(A)).name == "a"
    assert got(residency.pin(A)).name == "a"
    residency.release(A)
    assert users(residency) == 0
    assert residency.is_pinned(A.sha256)
    residency.unpin(A.sha256)
    use(residency, B)


def test_where_pinned_adapters_leave_no_room_the_others_are_told(tiers):
    residency = tiers(slots=2, slot_bytes=100)
    got(residency.pin(version("large", 85)))
    use(residency, A)
    with pytest.raises(Overloaded, match="pinned"):
        got(residency.acquire(version("other", 20)))
    got(residency.pin(A))
    for wish in (residency.acquire(B), residency.pin(C)):
        with pytest.raises(Overloaded, match="pinned"):
            got(wish)
    use(residency, A)
    residency.unpin(A.sha256)
    use(residency, B)
    wait_until(lambda: idle(residency))


def test_a_pin_that_is_given_up_pins_nothing(tiers, disk):
    residency = tiers()
    let = disk.hold("a")
    wish, asked = residency.pin(A), residency.acquire(A)
    assert disk.begun["a"].wait(PATIENCE)
    wish.cancel()
    let.set()
    got(asked)
    residency.release(A)
    wait_until(lambda: idle(residency))
    assert not residency.is_pinned(A.sha256)


def test_unload_gives_back_both_tiers(tiers):
    residency = tiers()
    use(residency, A)
    before = residency.stats()
    assert (before.slots, before.slot_bytes, before.memory, before.memory_bytes) == (1, 10, 1, 10)
    residency.unload(A.sha256)
    after = residency.stats()
    assert (after.slots, after.slot_bytes, after.memory, after.memory_bytes) == (0, 0, 0, 0)
    assert residency.level(A.sha256) == "disk"
    residency.unload(A.sha256)
    residency.unpin(A.sha256)
    residency.unload("never-there")


def test_unload_under_use_waits_for_the_last_user(tiers):
    residency = tiers()
    got(residency.acquire(A))
    got(residency.acquire(A))
    residency.unload(A.sha256)
    residency.release(A)
    assert residency.level(A.sha256) == "slot"
    residency.release(A)
    assert residency.level(A.sha256) == "disk"
    assert residency.stats().memory == 0


def test_unload_while_it_is_read_lets_those_finish_who_wait(tiers, disk):
    residency = tiers()
    let = disk.hold("a")
    wish = residency.acquire(A)
    assert disk.begun["a"].wait(PATIENCE)
    residency.unload(A.sha256)
    let.set()
    assert got(wish).name == "a"
    residency.release(A)
    wait_until(lambda: residency.level(A.sha256) == "disk")
    assert idle(residency)
    assert residency.stats().memory == 0


def test_unload_takes_a_pin_away(tiers):
    residency = tiers()
    got(residency.pin(A))
    wait_until(lambda: users(residency) == 0)
    residency.unload(A.sha256)
    assert residency.level(A.sha256) == "disk"
    assert not residency.is_pinned(A.sha256)


def test_prefetch_pushes_nobody_out(tiers, disk):
    residency = tiers(slots=2)
    residency.prefetch(A)
    wait_until(lambda: residency.level(A.sha256) == "slot" and idle(residency))
    use(residency, B)
    residency.prefetch(C)
    assert [residency.level(v.sha256) for v in (A, B, C)] == ["slot", "slot", "disk"]
    assert "c" not in disk.loads


# ---- anything at once


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_at_once_everything_is_given_back(tiers, disk, seed):
    residency = tiers(slots=3, slot_bytes=65, memory_bytes=50)
    versions = [version(f"v{i}", 5 + 5 * i) for i in range(7)]
    disk.failing["v6"] = InvalidRequest("damaged")
    errors: list[BaseException] = []

    def go(chance: random.Random) -> None:
        try:
            for _ in range(150):
                wanted = chance.choice(versions)
                match chance.choice(["use"] * 6 + ["hold", "give up", "pin", "unload", "bring", "prefetch", "look"]):
                    case "use" | "hold" as how:
                        wish = residency.acquire(wanted)
                        try:
                            assert got(wish).name == wanted.task
                        except (InvalidRequest, Overloaded):
                            continue
                        if how == "hold":
                            time.sleep(chance.random() / 500)
                        assert residency.level(wanted.sha256) == "slot"
                        residency.release(wanted)
                    case "give up":
                        wish = residency.acquire(wanted)
                        if not wish.cancel():
                            wish.add_done_callback(
                                lambda done, wanted=wanted: done.exception() or residency.release(wanted)
                            )
                    case "pin":
                        residency.pin(wanted)
                        residency.unpin(wanted.sha256)
                        residency.unpin(chance.choice(versions).sha256)
                    case "unload":
                        residency.unload(wanted.sha256)
                    case "bring":
                        residency.bring(wanted)
                    case "prefetch":
                        residency.prefetch(wanted)
                    case "look":
                        stats = residency.stats()
                        assert stats.slots <= 3
                        assert stats.slot_bytes <= 65
                        assert stats.memory_bytes <= 50
        except BaseException as error:
            errors.append(error)

    stop = threading.Event()

    def unpinning() -> None:
        while not stop.wait(0.002):
            for wanted in versions:
                residency.unpin(wanted.sha256)

    janitor = threading.Thread(target=unpinning)
    janitor.start()
    threads = [threading.Thread(target=go, args=(random.Random(seed * 100 + i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[:3]
    wait_until(lambda: idle(residency))
    stop.set()
    janitor.join()
    for wanted in versions[:6]:
        residency.unload(wanted.sha256)
    assert residency.stats().slots == residency.stats().slot_bytes == 0
    assert residency.stats().memory == residency.stats().memory_bytes == 0
    use(residency, versions[5])

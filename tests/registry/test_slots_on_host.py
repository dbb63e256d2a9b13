"""The adapter cache where slots are host memory: each adapter lies in one of the two, and changes at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import AdapterInfo, Version

from tests.waiting import wait_until


@dataclass(eq=False)
class Named:
    """Stands for an adapter, and for one that is bound."""

    name: str
    nbytes: int


def version(name: str, size: int = 10) -> Version:
    return Version(name, 1, f"sha-{name}", AdapterInfo("lora", "embed", 1, 1, size, None, None, None, {}), 0.0)


class Host:
    """Counts what an adapter cache does."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.binds: Counter[str] = Counter()
        self.unbound: list[str] = []

    def load(self, wanted: Version) -> Any:
        self.loads[wanted.task] += 1
        return Named(wanted.task, 2 * wanted.info.bytes)  # the files are twice what is bound

    def bind(self, adapter: Any) -> Any:
        self.binds[adapter.name] += 1
        return Named(adapter.name, adapter.nbytes // 2)

    def cache(self, slots: int, memory_bytes: int, slot_bytes: int = 1000, **given: Any) -> AdapterCache:
        return AdapterCache(
            load=self.load,
            bind=self.bind,
            unbind=lambda bound: self.unbound.append(bound.name),  # type: ignore[attr-defined]
            slot_size=lambda adapter: adapter.nbytes // 2,
            slots=slots,
            slot_bytes=slot_bytes,
            memory_bytes=memory_bytes,
            slots_on_host=True,
            **given,
        )


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def adapter_cache(host: Host) -> Iterator[AdapterCache]:
    made = host.cache(slots=2, memory_bytes=20)
    yield made
    made.close()


A, B, C, D, E = (version(name) for name in "abcde")


def use(adapter_cache: AdapterCache, wanted: Version) -> None:
    assert adapter_cache.acquire(wanted).result(60).nbytes == 10
    adapter_cache.release(wanted)
    wait_until(lambda: not any(slot.users for slot in adapter_cache._slots.values()), "it is idle")


def test_an_adapter_is_counted_once_wherever_it_lies(adapter_cache: AdapterCache) -> None:
    use(adapter_cache, A)
    stats = adapter_cache.stats()
    assert (stats.slots, stats.slot_bytes, stats.memory, stats.memory_bytes) == (1, 10, 0, 0)
    use(adapter_cache, B)
    use(adapter_cache, C)
    stats = adapter_cache.stats()
    assert (stats.slots, stats.slot_bytes, stats.memory, stats.memory_bytes) == (2, 20, 1, 10)
    assert [adapter_cache.level(v.sha256) for v in (A, B, C)] == ["memory", "slot", "slot"]


def test_what_lies_in_memory_is_in_its_slot_at_once_and_bound_once(host: Host, adapter_cache: AdapterCache) -> None:
    for wanted in (A, B, C):
        use(adapter_cache, wanted)
    for wanted in (A, B, C, A, B, C):  # with no thread between
        assert adapter_cache.acquire(wanted).done()
        adapter_cache.release(wanted)
    assert host.loads == host.binds == {"a": 1, "b": 1, "c": 1}
    assert not host.unbound
    assert adapter_cache.stats().evictions == 7


def test_what_leaves_memory_is_unbound_the_longest_idle_first(host: Host, adapter_cache: AdapterCache) -> None:
    for wanted in (A, B, C, D, E):
        use(adapter_cache, wanted)
    assert host.unbound == ["a"]
    assert [adapter_cache.level(v.sha256) for v in (A, B, C, D, E)] == ["disk", "memory", "memory", "slot", "slot"]
    use(adapter_cache, A)
    assert host.loads["a"] == host.binds["a"] == 2


def test_unloading_unbinds_in_slots_and_in_memory(host: Host, adapter_cache: AdapterCache) -> None:
    for wanted in (A, B, C):
        use(adapter_cache, wanted)
    adapter_cache.unload(A.sha256)
    adapter_cache.unload(C.sha256)
    assert host.unbound == ["a", "c"]
    stats = adapter_cache.stats()
    assert (stats.slots, stats.slot_bytes, stats.memory, stats.memory_bytes) == (1, 10, 0, 0)


def test_who_waits_for_a_slot_gets_what_lies_in_memory(host: Host, adapter_cache: AdapterCache) -> None:
    for wanted in (A, B, C):
        use(adapter_cache, wanted)
    held = [adapter_cache.acquire(wanted) for wanted in (B, C)]
    waiting = adapter_cache.acquire(A)
    wait_until(lambda: bool(adapter_cache._queue), "it waits")
    assert [future.done() for future in (*held, waiting)] == [True, True, False]
    adapter_cache.release(B)
    assert waiting.result(60).nbytes == 10
    assert (host.loads["a"], host.binds["a"], host.unbound) == (1, 1, [])
    adapter_cache.release(A)
    adapter_cache.release(C)


def test_a_pinned_adapter_stays_and_the_accounts_agree(adapter_cache: AdapterCache) -> None:
    adapter_cache.pin(A).result(60)
    for wanted in (B, C, D, B):
        use(adapter_cache, wanted)
    assert adapter_cache.level(A.sha256) == "slot"
    adapter_cache.unpin(A.sha256)
    use(adapter_cache, C)
    use(adapter_cache, D)
    assert adapter_cache.level(A.sha256) != "slot"
    assert (adapter_cache._slots.pinned, adapter_cache._slots.pinned_bytes) == (0, 0)
    stats = adapter_cache.stats()
    assert (stats.slots, stats.slot_bytes, stats.memory, stats.memory_bytes) == (2, 20, 2, 20)


def test_no_request_looks_at_all_slots(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request costs does not grow with the slots."""
    adapter_cache = host.cache(slots=50, memory_bytes=10_000)
    for number in range(100):
        use(adapter_cache, version(f"v{number}"))

    def refused(*_: Any) -> Any:
        raise AssertionError("all slots are looked at")

    monkeypatch.setattr(type(adapter_cache._slots), "values", refused)
    for number in range(100):
        wanted = version(f"v{number}")
        assert adapter_cache.acquire(wanted).done()
        adapter_cache.release(wanted)
    adapter_cache.close()


def test_a_slot_counts_what_is_bound_and_not_what_was_estimated(host: Host) -> None:
    """Of files in 32 bits beside a backbone in 16 twice as many fit as their files say."""
    cache = AdapterCache(
        load=host.load,
        bind=host.bind,
        slot_size=lambda adapter: adapter.nbytes,  # twice what is bound
        slots=100,
        slot_bytes=100,
        memory_bytes=1000,
        slots_on_host=True,
    )
    try:
        for i in range(9):
            cache.ensure_loaded(version(f"v{i}")).result(60)
        wait_until(lambda: cache.stats().slot_bytes == 90, "the slot to be counted by what is bound")
        assert (cache.stats().slots, cache.stats().evictions) == (9, 0)
    finally:
        cache.close()


def test_a_sweep_through_many_leaves_those_that_are_asked_for_often(host: Host) -> None:
    cache = host.cache(slots=4, memory_bytes=60)

    def ask(name: str) -> None:
        cache.acquire(version(name)).result(60)
        cache.release(version(name))

    try:
        for _ in range(4):
            for name in ("a", "b", "c"):
                ask(name)
        for i in range(20):
            ask(f"once-{i}")
        for name in ("a", "b", "c"):
            ask(name)
        assert {host.loads[name] for name in ("a", "b", "c")} == {1}
        assert sum(host.loads.values()) == 23
    finally:
        cache.close()

"""The loading threads: adapters are bound before others are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.loading_threads import LoadingThreads

from tests.registry.test_slots_on_host import Named, version
from tests.waiting import wait_until

PATIENCE = 60.0


@pytest.fixture
def threads() -> Iterator[LoadingThreads]:
    made = LoadingThreads()
    yield made
    made.close()


def held(threads: LoadingThreads) -> threading.Event:
    """Keeps all threads busy until the event is set."""
    end, begun = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        begun.release()
        end.wait(PATIENCE)

    for _ in range(threads.count):
        threads.then(wait)
        assert begun.acquire(timeout=PATIENCE)
    return end


def test_what_is_first_is_done_before_what_was_given_earlier(threads: LoadingThreads) -> None:
    done: list[str] = []
    end = held(threads)
    for name in ("load 1", "load 2"):
        threads.then(lambda name=name: done.append(name))  # type: ignore[misc]
    for name in ("bind 1", "bind 2"):
        threads.first(lambda name=name: done.append(name))  # type: ignore[misc]
    end.set()
    wait_until(lambda: len(done) == 4, "all is done")
    assert {*done[:2]} == {"bind 1", "bind 2"}
    assert {*done[2:]} == {"load 1", "load 2"}


def test_short_works_are_one_thread_s(threads: LoadingThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would wait for the interpreter's lock in turn."""
    monkeypatch.setattr(LoadingThreads, "help_after", PATIENCE)
    at_once = most = 0
    done: list[int] = []

    def work() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        threads._condition.acquire()  # lets the other thread in
        threads._condition.release()
        at_once -= 1
        done.append(1)

    for _ in range(200):
        threads.then(work)
    wait_until(lambda: len(done) == 200, "all is done")
    assert most == 1


def test_a_long_work_holds_up_no_other(threads: LoadingThreads) -> None:
    end, done = threading.Event(), threading.Event()
    threads.then(lambda: end.wait(PATIENCE))  # type: ignore[arg-type,return-value]
    threads.then(done.set)
    assert done.wait(PATIENCE)
    end.set()


def test_closing_leaves_out_what_has_not_begun(threads: LoadingThreads) -> None:
    done: list[str] = []
    end = held(threads)
    threads.then(lambda: done.append("load"))
    threading.Timer(0.05, end.set).start()
    threads.close()
    assert not done


def test_no_more_adapters_are_read_and_not_bound_than_there_are_threads() -> None:
    lock = threading.Lock()
    unbound = most = 0
    bound_by: list[bool] = []
    reader = threading.local()

    def load(wanted: Any) -> Any:
        nonlocal unbound, most
        with lock:
            unbound += 1
            most = max(most, unbound)
        reader.last = wanted.task
        return Named(wanted.task, 10)

    def bind(adapter: Any) -> Any:
        nonlocal unbound
        with lock:
            unbound -= 1
            bound_by.append(reader.last == adapter.name)
        return adapter

    adapter_cache = AdapterCache(
        load=load,
        bind=bind,
        slot_size=lambda adapter: adapter.nbytes,
        slots=200,
        slot_bytes=10_000,
        memory_bytes=10_000,
        slots_on_host=True,
    )
    futures = [adapter_cache.acquire(version(f"v{number}")) for number in range(100)]
    for future in futures:
        future.result(PATIENCE)
    adapter_cache.close()
    assert most <= LoadingThreads.count
    assert all(bound_by), "an adapter is bound by the thread that read it"

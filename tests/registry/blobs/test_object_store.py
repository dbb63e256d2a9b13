"""Contents in a real S3, which fails and stalls where a test has it do so."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from manyhats.errors import ConfigurationError, DamagedStore, StoreUnavailable, TooLarge
from manyhats.registry.blobs.contents import digest
from manyhats.registry.registry import Registry

from tests.registry.blobs.conftest import blobs_of
from tests.registry.helpers import upload
from tests.s3 import Endpoint
from tests.waiting import wait_until

Open = Callable[..., Registry]


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def object_of(registry: Registry, sha: str) -> tuple[object, str]:
    return blobs_of(registry)._bucket._store, f"blobs/{sha}.tar"


def gets(s3: Endpoint) -> int:
    return sum(method == "GET" and "/blobs/" in path for method, path in s3.requests)


def test_what_is_uploaded_is_in_the_bucket_whole_before_its_version_is(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3(patience=0.3)
    version = upload(registry, "spam", "one")
    assert digest(registry.files(version)) == version.sha256
    assert gets(s3) == 0  # what was uploaded here is cached
    s3.fault = lambda method, path: "error" if method == "PUT" else None
    with pytest.raises(StoreUnavailable):
        upload(registry, "spam", "two")
    assert [one.number for one in registry.task("spam").versions] == [1]


def test_another_machine_fetches_it_once(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    blobs_of(registry).cache.drop(version.sha256)
    arrived = threading.Event()
    s3.released.clear()

    def hold(method: str, path: str) -> None:
        if method == "GET":
            arrived.set()
            s3.released.wait()

    s3.fault = hold
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(registry.read, version, weights) for _ in range(8)]
        assert arrived.wait(60)
        s3.released.set()
        assert {one.result() for one in found} == {b"\0weights:one"}
    assert gets(s3) == 1
    assert blobs_of(registry).figures.requests["miss"] == 1


def test_a_large_content_is_put_in_parts_and_fetched_to_its_size(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3(cache=1 << 26)
    version = upload(registry, "spam", "x" * (20 << 20))
    blobs_of(registry).cache.drop(version.sha256)
    s3.sent.clear()
    assert len(registry.read(version, weights)) == (20 << 20) + len(b"\0weights:")
    assert sum(s3.sent) < (20 << 20) + 10_000
    assert max(s3.sent) <= 4 << 20


def test_a_store_that_fails_half_of_its_calls_works(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3(cache=1 << 26, patience=20.0)
    numbers = itertools.count()
    faults = itertools.cycle(["error", None, "cut", None])
    s3.fault = lambda method, path: next(faults) if next(numbers) >= 0 else None
    versions = [upload(registry, f"task-{i}", f"{i}") for i in range(5)]
    large = upload(registry, "large", "y" * (9 << 20))
    for version in (*versions, large):
        blobs_of(registry).cache.drop(version.sha256)
        assert digest(registry.files(version)) == version.sha256
    figures = blobs_of(registry).figures
    assert figures.retries["get"] > 0
    assert figures.retries["put"] > 0
    assert not figures.errors


def test_a_store_that_does_not_answer_is_given_up_and_asked_again_later(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3(patience=0.5)
    warm, cold = upload(registry, "warm", "one"), upload(registry, "cold", "two")
    blobs_of(registry).cache.drop(cold.sha256)
    s3.fault = lambda method, path: "stall"
    with pytest.raises(StoreUnavailable, match="try again") as failed:
        registry.read(cold, weights)
    assert failed.value.retry_after >= 1
    asked = len(s3.requests)
    with pytest.raises(StoreUnavailable):  # at once
        registry.read(cold, weights)
    assert len(s3.requests) == asked
    assert registry.read(warm, weights) == b"\0weights:one"
    assert not registry.quarantine.versions()  # nothing is damaged
    s3.fault = lambda method, path: None
    s3.released.set()
    blobs_of(registry)._bucket._paused_until = 0.0
    assert registry.read(cold, weights) == b"\0weights:two"


def test_fetching_waits_in_threads_of_its_own(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    blobs_of(registry).cache.drop(version.sha256)
    s3.fault = lambda method, path: s3.released.wait() and None
    done: list[object] = []
    registry.fetch([version], lambda: done.append("here"), done.append)
    assert not done  # and this thread goes on
    s3.released.set()
    wait_until(lambda: done == ["here"], "the files are here")
    registry.fetch([version], lambda: done.append("at once"), done.append)
    assert done == ["here", "at once"]


def test_a_damaged_copy_is_fetched_again(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    cached = blobs_of(registry).path(version.sha256) / "adapter_model.safetensors"
    cached.write_bytes(b"other")
    assert registry.read(version, weights) == b"\0weights:one"
    assert gets(s3) == 1
    assert blobs_of(registry).figures.requests["damaged"] == 1
    assert not registry.quarantine.versions()


@pytest.mark.parametrize("damage", ["bit", "short", "long", "gone", "empty", "another's"])
def test_a_damaged_object_is_told_and_never_used(over_s3: Open, s3: Endpoint, damage: str) -> None:
    registry = over_s3()
    version, other = upload(registry, "spam", "one"), upload(registry, "other", "two")
    store, name = object_of(registry, version.sha256)
    data = bytes(obstore.get(store, name).bytes())
    if damage == "gone":
        obstore.delete(store, name)
    elif damage == "another's":
        obstore.put(store, name, obstore.get(store, object_of(registry, other.sha256)[1]).bytes())
    else:
        at = data.index(b"\0weights:one") + 10
        changed = {"bit": data[:at] + b"O" + data[at + 1 :], "short": data[:-600], "long": data + b"x" * 512}
        obstore.put(store, name, changed.get(damage, b""))
    blobs_of(registry).cache.drop(version.sha256)
    for _ in range(2):
        with pytest.raises(DamagedStore, match="spam@1"):
            registry.read(version, weights)
    assert [one.ref for one in registry.quarantine.versions()] == ["spam@1"]
    assert list((registry.own_folder / "staging").iterdir()) == []
    upload(registry, "spam", "one")  # the same bytes again
    blobs_of(registry).cache.drop(version.sha256)
    assert registry.read(version, weights) == b"\0weights:one"
    assert not registry.quarantine.versions()


def test_a_lost_object_is_found_at_the_start(over_s3: Open) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    obstore.delete(*object_of(registry, version.sha256))
    blobs_of(registry).cache.drop(version.sha256)
    registry.close()
    again = over_s3()
    assert [one.ref for one in again.quarantine.versions()] == ["spam@1"]


def test_a_start_without_the_store_has_what_is_cached(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    registry.close()
    s3.fault = lambda method, path: "error"
    again = over_s3(patience=0.2)
    assert again.read(version, weights) == b"\0weights:one"


def test_what_is_larger_than_the_cache_is_refused_with_the_setting(over_s3: Open, s3: Endpoint) -> None:
    registry = over_s3(cache=10_000)
    with pytest.raises(TooLarge, match="blob_cache"):
        upload(registry, "spam", "x" * 20_000)
    assert not any(method == "PUT" and "/blobs/" in path for method, path in s3.requests)


def test_a_bucket_of_another_database_is_refused(over_s3: Open) -> None:
    over_s3("one")
    with pytest.raises(ConfigurationError, match="another database"):
        over_s3("two")


def test_a_bucket_with_contents_and_no_database_is_refused(over_s3: Open) -> None:
    upload(over_s3("one"), "spam", "one")
    with pytest.raises(ConfigurationError, match="database is lost"):
        over_s3("two")


def test_no_database_is_made_while_it_is_not_known_what_the_bucket_has(over_s3: Open, s3: Endpoint) -> None:
    s3.fault = lambda method, path: "error"
    with pytest.raises(ConfigurationError, match="none is made while the object store does not answer"):
        over_s3(patience=0.3)
    s3.fault = lambda method, path: None
    over_s3()


def test_a_bucket_that_is_not_there_is_told(over_s3: Open, address: str, s3: Endpoint) -> None:
    s3.delete_bucket(address)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        over_s3()


def test_what_is_deleted_stays_for_its_time_of_grace(over_s3: Open) -> None:
    registry = over_s3()
    version = upload(registry, "spam", "one")
    registry.delete_task("spam")
    blobs = blobs_of(registry)
    assert not blobs.cache.has(version.sha256)
    wait_until(lambda: set(blobs.marks()) == {version.sha256}, "it is marked")
    assert set(blobs.stored()) == {version.sha256}

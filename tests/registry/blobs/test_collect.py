"""What no version needs is removed after its time of grace, and an upload of the same content is never lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from manyhats.errors import ConfigurationError
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.blobs.collect import Collected, collect
from manyhats.registry.blobs.contents import digest
from manyhats.registry.blobs.local import LocalBlobs
from manyhats.registry.registry import Registry

from tests.registry.helpers import inspect, upload, write_adapter
from tests.s3 import Endpoint
from tests.waiting import wait_until

Opened = Callable[..., Registry]


@pytest.fixture(params=["folder", "shared folder", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, s3: Endpoint) -> Iterator[Registry]:
    """An open registry over each kind of blobs."""
    store = tmp_path / "store"
    address = {"folder": "", "shared folder": str(tmp_path / "shared"), "s3": s3.bucket}[request.param]
    address = address if isinstance(address, str) else address()
    one = Registry(store, inspect, blobs=choose_blobs(address, store / ".manyhats", 1 << 20, 3.0))
    one.open()
    yield one
    one.close()


def collected(registry: Registry, grace: float = 0.0, **options: bool) -> Collected:
    return collect(registry.blobs, registry._database.write, grace, **options)


def unneeded(registry: Registry, content: str = "one") -> str:
    """A content that no version needs, as an upload leaves it that was killed before its commit."""
    with registry.stage() as folder:
        write_adapter(folder, content)
        sha = digest(folder)
        registry.blobs.put(folder, sha)
        registry.blobs.keep(folder, sha)
    return sha


def test_what_is_needed_stays(registry: Registry) -> None:
    version = upload(registry, "spam", "one")
    for _ in range(2):
        found = collected(registry)
        assert (found.needed, found.removed, found.waiting, found.missing) == (1, [], [], [])
    assert registry.files(version).is_dir()


def test_a_dry_run_changes_nothing(registry: Registry) -> None:
    version, sha = upload(registry, "spam", "keep"), unneeded(registry)
    found = collected(registry, dry_run=True)
    assert found.removed == [sha]
    assert set(registry.blobs.stored()) == {version.sha256, sha}
    assert not registry.blobs.marks()


def test_what_is_unneeded_waits_for_its_time_of_grace(registry: Registry) -> None:
    upload(registry, "spam", "keep")
    sha = unneeded(registry)
    for _ in range(2):
        found = collected(registry, grace=3600.0)
        assert (found.removed, found.waiting) == ([], [sha])
    assert set(registry.blobs.marks()) == {sha}
    found = collected(registry)
    assert found.removed == [sha]
    assert sha not in registry.blobs.stored()
    assert not registry.blobs.marks()


def test_what_is_needed_again_loses_its_mark(registry: Registry) -> None:
    sha = unneeded(registry)
    collected(registry, grace=3600.0)
    assert upload(registry, "spam", "one").sha256 == sha
    assert collected(registry).removed == []
    assert not registry.blobs.marks()


def test_an_upload_that_meets_a_collection_keeps_its_files(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection has found the content unneeded; before it deletes, the upload has put it and waits to commit."""
    upload(registry, "other", "keep")
    sha = unneeded(registry)
    real_put, delete = registry.blobs.put, registry.blobs.delete
    put, gone_on = threading.Event(), threading.Event()
    results: list[Collected] = []

    def put_before(folder: Path, sha256: str) -> None:
        """As if it had put its files before the collection deletes them."""
        if put.is_set():
            real_put(folder, sha256)
        put.set()
        assert gone_on.wait(60)

    monkeypatch.setattr(registry.blobs, "put", put_before)
    collecting = threading.Thread(target=lambda: results.append(collected(registry)))

    def then_let_go(sha256: str, before: float) -> bool:
        deleted = delete(sha256, before)
        gone_on.set()
        return deleted

    monkeypatch.setattr(registry.blobs, "delete", then_let_go)
    uploading = threading.Thread(target=upload, args=(registry, "spam", "one"))
    uploading.start()
    assert put.wait(60)
    collecting.start()
    uploading.join()
    collecting.join()
    assert results[0].removed == [sha]
    monkeypatch.undo()
    version = registry.resolve("spam")
    assert version.sha256 == sha
    assert sha in registry.blobs.stored()
    assert registry.blobs.fault(sha) is None


def test_uploads_and_collections_at_once(registry: Registry) -> None:
    """The same contents are uploaded, deleted and collected without grace: whatever has a version has its files."""
    upload(registry, "other", "keep")
    stop = threading.Event()
    failures: list[BaseException] = []

    def collecting() -> None:
        try:
            while not stop.is_set():
                collected(registry)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collecting)
    thread.start()
    try:
        for i in range(15):
            version = upload(registry, f"task-{i % 3}", f"{i % 2}")
            assert version.sha256 in registry.blobs.stored()
            if i % 3:
                registry.delete_task(f"task-{i % 3}")
    finally:
        stop.set()
        thread.join()
    assert not failures
    for task in registry.all():
        for version in task.versions:
            assert registry.quarantine.check(version.sha256).is_dir()


def test_blobs_of_another_store_are_left_alone(registry: Registry, tmp_path: Path) -> None:
    upload(registry, "spam", "one")
    other = LocalBlobs(tmp_path / "other")
    other.open()
    with pytest.raises(ConfigurationError, match="none of the 1 contents"):
        collect(other, registry._database.write, 0.0)


def test_old_staging_is_removed_and_new_stays(tmp_path: Path, opened: Opened) -> None:
    registry = opened(tmp_path / "store")
    upload(registry, "spam", "one")
    staging = registry.own_folder / "staging"
    for name, age in (("old", 100_000), ("new", 0)):
        write_adapter(staging / name)
        os.utime(staging / name, (time.time() - age,) * 2)
    found = collected(registry)
    assert [one.name for one in found.leftovers] == ["staging/old"]
    assert [path.name for path in staging.iterdir()] == ["new"]


def test_two_servers_share_a_folder(tmp_path: Path, opened: Opened) -> None:
    """What one deletes stays for the other's requests until it is collected; a start removes nothing of the other's."""
    shared = str(tmp_path / "shared")
    store = tmp_path / "one"
    one = opened(store, blobs=choose_blobs(shared, store / ".manyhats"))
    version = upload(one, "spam", "one")
    upload(one, "other", "two")
    with one.stage() as folder:
        one.delete_task("spam")
        one.close()
        again = opened(store, blobs=choose_blobs(shared, store / ".manyhats"))
        assert folder.is_dir()
    assert LocalBlobs(Path(shared)).fault(version.sha256) is None
    assert collected(again, grace=3600.0).waiting == [version.sha256]
    assert collected(again).removed == [version.sha256]
    with pytest.raises(ConfigurationError, match="database is lost"):
        opened(tmp_path / "two", blobs=choose_blobs(shared, tmp_path / "two" / ".manyhats"))


def test_a_mark_is_made_at_the_deletion(registry: Registry) -> None:
    if not registry.blobs.shared:
        return
    version = upload(registry, "spam", "one")
    registry.delete_task("spam")
    wait_until(lambda: set(registry.blobs.marks()) == {version.sha256}, "it is marked")

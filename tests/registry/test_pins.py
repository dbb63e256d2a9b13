"""Pins: a version that a request uses keeps its files, whatever happens to its name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from manyhats.errors import ConfigurationError, ManyhatsError, NotFound, StorageFull
from manyhats.methods.heads import KindName
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry
from sqlalchemy.exc import OperationalError

from tests.registry.helpers import blobs, inspect, staged, upload, write_adapter

Open = Callable[..., Registry]


def full_disk(*_: object) -> None:
    """What committing on a full disk raises."""
    raise OperationalError("COMMIT", {}, Exception("database or disk is full"))


def test_a_deleted_task_is_gone_at_once_but_its_files_go_with_the_last_pin(registry: Registry, store: Path) -> None:
    upload(registry, "spam", "one")
    pins = [registry.pin("spam"), registry.pin("spam@1")]
    registry.delete_task("spam")
    with pytest.raises(NotFound):
        registry.pin("spam")
    for version in pins:
        assert (registry.files(version) / "adapter_model.safetensors").read_bytes().endswith(b"one")
        registry.unpin(version)
    assert blobs(store) == set()
    assert staged(store) == []


def test_a_deleted_version_is_gone_at_once_but_its_files_go_with_the_last_pin(registry: Registry, store: Path) -> None:
    upload(registry, "spam", "one")
    pinned = registry.pin("spam")
    upload(registry, "spam", "two")
    registry.delete_version("spam", 1)
    assert pinned.sha256 in blobs(store)
    registry.unpin(pinned)
    assert blobs(store) == {registry.resolve("spam").sha256}


def test_files_of_a_pinned_version_stay_when_they_are_uploaded_again(registry: Registry, store: Path) -> None:
    upload(registry, "spam", "one")
    pinned = registry.pin("spam")
    registry.delete_task("spam")
    again = upload(registry, "spam", "one")
    registry.unpin(pinned)
    assert blobs(store) == {again.sha256}


def test_files_of_a_pinned_version_stay_when_the_same_upload_fails(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(registry, "spam", "one")
    pinned = registry.pin("spam")
    registry.delete_task("spam")

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.orm.Session.commit", full_disk)
        with pytest.raises(StorageFull):
            upload(registry, "spam", "one")
    assert blobs(store) == {pinned.sha256}
    registry.unpin(pinned)
    assert blobs(store) == set()


def test_files_that_a_kill_left_pinned_go_at_the_next_start(store: Path, opened: Open) -> None:
    registry = opened(store)
    upload(registry, "spam", "one")
    registry.pin("spam")
    registry.delete_task("spam")
    registry.close()
    assert len(blobs(store)) == 1
    opened(store)
    assert blobs(store) == set()


def test_an_upload_that_is_not_committed_leaves_nothing(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(registry, "spam", "one")
    before = registry.task("spam")
    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.orm.Session.commit", full_disk)
        with pytest.raises(StorageFull):
            upload(registry, "spam", "two")
    assert registry.task("spam") == before
    assert blobs(store) == {before.versions[0].sha256}
    assert upload(registry, "spam", "three").number == 2


def test_members_stay_while_a_request_needs_what_is_made_of_them(store: Path) -> None:
    """The version is deleted, and so are its members' own tasks; the request may not have read them yet."""
    members: list[str] = []

    def composed(folder: Path, kind: KindName | None = None) -> AdapterInfo:
        info = inspect(folder, kind)
        made = "made" in (folder / "adapter_config.json").read_text()
        return replace(info, references=tuple(members) if made else ())

    registry = Registry(store, composed)
    registry.open()
    members += [upload(registry, name, name).sha256 for name in ("one", "two")]
    upload(registry, "three", "made", made=True)
    pins = [registry.pin("three"), registry.pin("three")]
    for task in ("three", "one", "two"):
        registry.delete_task(task)
    assert blobs(store) == {*members, pins[0].sha256}
    registry.unpin(pins[0])
    assert blobs(store) == {*members, pins[0].sha256}
    registry.unpin(pins[0])
    assert blobs(store) == set()
    registry.close()


# ---- many threads


def run(*jobs: Callable[[], None]) -> None:
    """Runs jobs at once, and raises what the first of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def work(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:  # handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_two_uploads_to_one_task_at_once_make_two_versions(store: Path) -> None:
    """Both are inside `inspect` at the same moment: checking one upload does not hold up another."""
    both = threading.Barrier(2, timeout=30)

    def meeting(folder: Path, kind: str | None = None) -> AdapterInfo:
        both.wait()
        return inspect(folder)

    registry = Registry(store, meeting)
    registry.open()
    run(*[lambda content=content: upload(registry, "spam", content) and None for content in ("one", "two")])
    assert [v.number for v in registry.task("spam").versions] == [1, 2]
    assert blobs(store) == {v.sha256 for v in registry.task("spam").versions}
    registry.close()


def test_the_same_upload_twice_at_once_makes_one_version(registry: Registry, store: Path) -> None:
    made: list[bool] = []

    def job() -> None:
        with registry.stage() as folder:
            made.append(registry.add_version("spam", write_adapter(folder, "one"))[1])

    run(job, job, job)
    assert sorted(made) == [False, False, True]
    assert [v.number for v in registry.task("spam").versions] == [1]
    assert len(blobs(store)) == 1
    assert staged(store) == []


def test_pins_uploads_and_deletions_at_once_never_lose_files(registry: Registry, store: Path) -> None:
    """Whoever holds a pin finds its files, and in the end only those of versions are left."""

    def writes() -> None:
        for i in range(15):
            upload(registry, "spam", str(i % 3))
            if i % 4 == 3:
                registry.delete_task("spam")

    def reads() -> None:
        for _ in range(300):
            try:
                version = registry.pin("spam")
            except NotFound:
                continue
            assert (registry.files(version) / "adapter_model.safetensors").exists()
            registry.unpin(version)

    def lists() -> None:
        for _ in range(300):
            try:
                task = registry.task("spam")
            except ManyhatsError:
                continue
            assert task.stable in task.versions

    run(writes, reads, reads, lists)
    assert blobs(store) == {v.sha256 for task in registry.all() for v in task.versions}
    assert staged(store) == []


# ---- one process at a time


def test_a_second_registry_on_the_store_is_refused(registry: Registry, store: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry(store, inspect).open()
    assert "\n" not in caught.value.message


def test_the_store_is_free_once_another_thread_has_closed_the_registry(store: Path, opened: Open) -> None:
    registry = Registry(store, inspect)
    registry.open()
    run(registry.close)
    opened(store)


def test_a_store_that_could_not_be_opened_is_free(store: Path, opened: Open) -> None:
    database = store / ".manyhats" / "registry.sqlite3"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigurationError, match="database"):
        Registry(store, inspect).open()
    database.unlink()
    opened(store)


def test_a_store_that_cannot_be_made_is_the_operators_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        Registry(tmp_path / "file" / "store", inspect).open()

"""A store copied into one file while it changes, and put back: between both kinds of database, and never by half."""

from __future__ import annotations

import os
import signal
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from manyhats.core.call import CURRENT_CALL, Call, Caller
from manyhats.errors import Conflict, DamagedStore, UnsupportedFormat
from manyhats.registry.backup import Counts, write_backup
from manyhats.registry.blobs.local import LocalBlobs
from manyhats.registry.records import Target, TaskSettings
from manyhats.registry.registry import Registry
from manyhats.registry.restoring import Restoring
from manyhats.registry.rollout import Rollout, Shadow
from manyhats.registry.stores.choose import metadata_store
from manyhats.registry.stores.looking import reading

from tests.registry.helpers import blobs, inspect, staged, upload

Open = Callable[..., Registry]


def on(store: Path, url: str = "") -> Registry:
    """An open registry."""
    registry = Registry(store, inspect, database=metadata_store(url, store / ".manyhats"))
    registry.open()
    return registry


def restore(file: Path, store: Path, url: str = "") -> Counts:
    """Puts a backup into a store that nobody has open."""
    own = store / ".manyhats"
    own.mkdir(parents=True, exist_ok=True)
    database, files = metadata_store(url, own), LocalBlobs(own)
    files.open()
    database.open(make=True)
    try:
        return Restoring(database, files).restore(file)
    finally:
        database.close()


def backup(file: Path, store: Path, url: str = "", **options: bool) -> Counts:
    """Copies a store."""
    own = store / ".manyhats"
    return write_backup(file, partial(reading, url, own), LocalBlobs(own), **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes."""
    return tmp_path / "backup.tar"


@pytest.fixture
def filled(registry: Registry) -> Registry:
    """A registry with some of everything: two tasks, four versions, three contents."""
    for content in ("a", "b", "c"):
        upload(registry, "spam", content)
    upload(registry, "ham", "a", settings=TaskSettings(priority=3, pinned=True))
    registry.set_alias("spam", "canary", [Target(1, 20.0), Target(2, 80.0)], Rollout(shadow=Shadow(3, 0.5)))
    registry.delete_version("spam", upload(registry, "spam", "gone", activate=False).number)
    registry.record_import("copied", "abc", "taken in as version 1")
    return registry


@pytest.mark.parametrize("between", ["", "postgresql"])
def test_everything_comes_back(
    filled: Registry, store: Path, file: Path, tmp_path: Path, between: str, request: pytest.FixtureRequest
) -> None:
    before, log = {task.name: task for task in filled.all()}, filled.audit.page(100, None)[0]
    assert backup(file, store) == Counts(2, 4, 3)
    if between:
        url = request.getfixturevalue("database_url")
        assert restore(file, tmp_path / between, url) == Counts(2, 4, 3)
        registry = on(tmp_path / between, url)
        assert {task.name: task for task in registry.all()} == before
        assert registry.imports() == {"copied": ("abc", "taken in as version 1")}
        registry.audit.add("key_create")  # numbers go on after those that came
        log = registry.audit.page(100, None)[0]
        assert log[0].id == log[1].id + 1
        file = tmp_path / "second.tar"
        assert backup(file, tmp_path / between, url) == Counts(2, 4, 3)
        registry.close()
    target = tmp_path / "target"
    assert restore(file, target) == Counts(2, 4, 3)
    assert staged(target) == []
    assert blobs(target) == blobs(store)
    registry = on(target)
    assert {task.name: task for task in registry.all()} == before
    assert registry.imports() == {"copied": ("abc", "taken in as version 1")}
    assert registry.audit.page(100, None)[0] == log
    assert upload(registry, "spam", "d").number == 5  # a number never comes back
    for version in registry.task("spam").versions:
        registry.files(version)
    registry.rollback("spam")
    assert registry.resolve("spam").number == 3
    registry.close()


def test_a_copy_while_the_store_changes_is_of_one_moment(
    registry: Registry, store: Path, tmp_path: Path, opened: Open
) -> None:
    """Versions come and go meanwhile: a copy never has one without its files."""
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            version = upload(registry, "spam", f"a {number}")
            if number > 3:
                registry.delete_version("spam", version.number - 2)

    upload(registry, "spam", "first")
    thread = threading.Thread(target=change)
    thread.start()
    try:
        counts = [backup(tmp_path / f"{number}.tar", store) for number in range(3)]
    finally:
        stop.set()
        thread.join()
    for number, count in enumerate(counts):
        target = tmp_path / f"target-{number}"
        assert restore(tmp_path / f"{number}.tar", target).damaged == {}
        again = opened(target)
        assert len(again.task("spam").versions) == count.versions
        assert not again.quarantine.versions()


def test_only_into_an_empty_store(filled: Registry, file: Path, store: Path, tmp_path: Path) -> None:
    backup(file, store)
    with pytest.raises(Conflict, match="is there already"):
        backup(file, store)
    restore(file, tmp_path / "target")
    with pytest.raises(Conflict, match="not empty"):
        restore(file, tmp_path / "target")


def damage(file: Path, how: str) -> None:
    """Changes a backup."""
    data = bytearray(file.read_bytes())
    with tarfile.open(file) as tar:
        member = next(m for m in tar if (".safetensors" if how == "files" else "versions") in m.name)
        end = tar.getmember("digests.json").offset
    if how == "cut off":
        data = data[: member.offset_data]
    elif how == "no end":
        data = data[:end] + bytes(1024)
    else:
        data[member.offset_data + 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["files", "rows", "cut off", "no end"])
def test_a_damaged_backup_is_refused(filled: Registry, file: Path, store: Path, tmp_path: Path, how: str) -> None:
    backup(file, store)
    damage(file, how)
    with pytest.raises(DamagedStore if how in ("files", "rows") else UnsupportedFormat):
        restore(file, tmp_path / "target")
    registry = on(tmp_path / "target")
    assert registry.count == 0
    registry.close()
    assert blobs(tmp_path / "target") == set()
    assert staged(tmp_path / "target") == []


@pytest.mark.parametrize("what", ["text", "another tar"])
def test_what_is_no_backup_is_refused(file: Path, tmp_path: Path, what: str) -> None:
    file.write_text("no tar" * 1000)
    if what == "another tar":
        with tarfile.open(file, "w") as tar:
            tar.add(__file__, "../outside")
    with pytest.raises(UnsupportedFormat):
        restore(file, tmp_path / "target")


def test_damaged_files_are_named_or_left_out(
    filled: Registry, file: Path, store: Path, tmp_path: Path, opened: Open
) -> None:
    sha = filled.resolve("spam@2").sha256
    (store / ".manyhats" / "blobs" / sha / "adapter_model.safetensors").write_text("other")
    with pytest.raises(DamagedStore, match=sha):
        backup(file, store)
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob(".*part")) == []
    assert list(backup(file, store, skip_damaged=True).damaged) == [sha]
    assert list(restore(file, tmp_path / "target").damaged) == [sha]
    again = opened(tmp_path / "target")
    assert [version.ref for version in again.quarantine.versions()] == ["spam@2"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_while_restoring_it_can_be_done_again(
    filled: Registry, file: Path, store: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    backup(file, store)
    url = "" if kind == "sqlite" else request.getfixturevalue("database_url")
    target = tmp_path / "target"
    for contents in (1, 3, 9):  # that are kept until then; 9: all of them, and the rows too
        child = os.fork()
        if not child:
            _die_restoring(contents)
            restore(file, target, url)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert restore(file, target, url) == Counts(2, 4, 3)
    registry = on(target, url)
    assert {task.name: task for task in registry.all()} == {task.name: task for task in filled.all()}
    assert blobs(target) == blobs(store)
    assert staged(target) == []
    registry.close()


def _die_restoring(contents: int) -> None:
    """Has this process end once so many contents were kept, or before the rows are committed."""
    keep, insert = Restoring._keep, Restoring._insert
    kept: list[str] = []

    def keeping(self: Restoring, folder: Path | None, sha: str) -> None:
        keep(self, folder, sha)
        kept.extend([sha] if sha else [])
        if len(kept) == contents:
            os.kill(os.getpid(), signal.SIGKILL)

    def inserting(self: Restoring, *given: object) -> None:
        insert(self, *given)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    Restoring._keep, Restoring._insert = keeping, inserting  # type: ignore[method-assign, assignment]


def test_who_changed_the_keys_file_is_noted_once(tmp_path: Path, database_url: str) -> None:
    """Each server of a database reads the keys file, and says what it finds."""
    both = [on(tmp_path / name, database_url) for name in ("one", "two")]
    call = Call(caller=Caller(key="keys-file"))
    for one in both:
        one.audit.add("key_create", detail=("x", "predict"), call=call, since=1e9)
    for one in both:  # another one of that name, which nobody has noted yet
        one.audit.add("key_create", detail=("x", "predict"), call=call, since=1e11)
    assert [entry.detail for entry in both[0].audit.page(10, None)[0]] == ["x, predict"] * 3
    assert CURRENT_CALL.get().caller.key == ""
    for one in both:
        one.close()

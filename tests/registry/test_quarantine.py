"""Stored files that change, shrink or go: found before use, reported everywhere, restored by the right bytes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from manyhats.errors import AdapterMismatch, DamagedStore, InvalidRequest, NotFound
from manyhats.methods.heads import KindName
from manyhats.registry.blobs.local import LocalBlobs
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry

from tests.registry.helpers import blobs, inspect, staged, upload
from tests.waiting import wait_until

Open = Callable[..., Registry]


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def changed(folder: Path) -> None:
    """As long as before, and touched at the same time."""
    path = weights(folder)
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut_short(folder: Path) -> None:
    os.truncate(weights(folder), 4)


def file_gone(folder: Path) -> None:
    weights(folder).unlink()


def file_more(folder: Path) -> None:
    (folder / "README.md").write_text("never uploaded")


def file_a_folder(folder: Path) -> None:
    weights(folder).unlink()
    weights(folder).mkdir()


def folder_gone(folder: Path) -> None:
    shutil.rmtree(folder)


def folder_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


DAMAGES = [changed, cut_short, file_gone, file_more, file_a_folder, folder_gone, folder_a_file]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("other_task", [False, True])
@pytest.mark.parametrize("noticed", [True, False])
def test_damage_is_found_and_healed_by_the_same_upload(
    registry: Registry, store: Path, caplog: pytest.LogCaptureFixture, damage, other_task, noticed
) -> None:
    version, well = upload(registry, "spam", "one"), upload(registry, "well", "two")
    before = weights(registry.files(version)).read_bytes()
    damage(registry.files(version))
    if noticed:
        for _ in range(2):
            with pytest.raises(DamagedStore, match="spam@1") as caught:
                registry.files(version)
        assert caught.value.param == version.sha256
        assert registry.quarantine.of(version)
        assert registry.quarantine.versions() == [version]
        assert caplog.text.count(version.sha256 + ") are damaged") == 1
    assert registry.files(well).exists()
    assert registry.quarantine.of(well) is None
    again = upload(registry, "ham" if other_task else "spam", "one")
    assert again.sha256 == version.sha256
    assert registry.quarantine.of(version) is None
    assert registry.quarantine.versions() == []
    assert weights(registry.files(version)).read_bytes() == before
    assert blobs(store) == {version.sha256, well.sha256}
    assert staged(store) == []
    assert ("whole again" in caplog.text) == noticed


def test_files_that_were_brought_back_by_hand_are_used(registry: Registry) -> None:
    version = upload(registry, "spam", "one")
    path = weights(registry.files(version))
    before = path.read_bytes()
    path.write_bytes(b"x")
    with pytest.raises(DamagedStore):
        registry.files(version)
    path.write_bytes(before)
    assert registry.files(version) == path.parent
    assert registry.quarantine.of(version) is None


def test_damage_that_is_known_is_not_read_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    version = upload(registry, "spam", "one")
    changed(registry.files(version))
    reads: list[str] = []
    fault = LocalBlobs.fault
    monkeypatch.setattr(LocalBlobs, "fault", lambda self, sha: reads.append(sha) or fault(self, sha))
    for _ in range(5):
        with pytest.raises(DamagedStore):
            registry.files(version)
    assert len(reads) == 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_made_of_damaged_files(registry: Registry, damage) -> None:
    version = upload(registry, "spam", "one")
    assert "adapter_config.json" in registry.read(version, names)
    damage(registry.files(version))
    for _ in range(2):
        with pytest.raises(DamagedStore, match="spam@1"):
            registry.read(version, names)
    upload(registry, "spam", "one")
    assert "adapter_config.json" in registry.read(version, names)


def test_what_a_reader_raises_of_whole_files_is_raised(registry: Registry) -> None:
    version = upload(registry, "spam", "one")

    def refuse(folder: Path) -> None:
        raise AdapterMismatch("it does not fit")

    with pytest.raises(AdapterMismatch, match="does not fit"):
        registry.read(version, refuse)


@pytest.mark.parametrize("fails", [False, True])
def test_files_that_are_healed_while_they_are_read_are_read_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The reader has seen the damaged bytes, whose digest was computed when they were whole again."""
    version = upload(registry, "spam", "one")
    path = weights(registry.files(version))
    before = path.read_bytes()
    seen: list[bytes] = []

    def read(folder: Path) -> bytes:
        if not seen:
            path.write_bytes(b"x")
        seen.append(path.read_bytes())
        if len(seen) == 1:
            other = path.with_name("other")
            other.write_bytes(before)
            other.rename(path)
            if fails:
                raise InvalidRequest("it is damaged")
        return seen[-1]

    checks, check = [], registry.quarantine.check

    def checked(sha: str) -> Path:
        wait_until(lambda: bool(seen), "the reader has read")
        checks.append(sha)
        wait_until(lambda: path.read_bytes() == before, "they are whole")
        return check(sha)

    monkeypatch.setattr(registry.quarantine, "check", checked)
    assert registry.read(version, read) == before
    assert seen == [b"x", before]
    assert len(checks) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_start_goes_on_beside_damage(store: Path, opened: Open, caplog: pytest.LogCaptureFixture, damage) -> None:
    registry = opened(store)
    version, well = upload(registry, "spam", "one"), upload(registry, "well", "two")
    damage(registry.files(version))
    registry.close()
    caplog.clear()
    again = opened(store)
    assert (again.quarantine.of(version) is not None) == (damage in (folder_gone, folder_a_file))
    if damage in (folder_gone, folder_a_file):  # reported before anybody asks
        assert "spam@1" in caplog.text
    with pytest.raises(DamagedStore):
        again.files(version)
    assert again.files(well).exists()
    again.delete_task("spam")
    assert again.quarantine.versions() == []
    assert blobs(store) == {well.sha256}


def test_what_is_made_of_a_damaged_member_is_reported_too(store: Path) -> None:
    members: list[str] = []

    def composed(folder: Path, kind: KindName | None = None) -> AdapterInfo:
        made = "made" in (folder / "adapter_config.json").read_text()
        return replace(inspect(folder, kind), references=tuple(members) if made else ())

    registry = Registry(store, composed)
    registry.open()
    one = upload(registry, "one", "one")
    members.append(one.sha256)
    made = upload(registry, "made", "all", made=True)
    changed(registry.files(one))
    with pytest.raises(DamagedStore):
        registry.content(one.sha256)
    assert "its member" in (registry.quarantine.of(made) or "")
    assert registry.quarantine.versions() == [made, one]
    upload(registry, "one", "one")
    assert registry.quarantine.versions() == []
    registry.close()


def test_what_was_deleted_is_not_damaged(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    version = upload(registry, "spam", "one")
    registry.delete_task("spam")
    caplog.set_level(logging.WARNING)
    with pytest.raises(NotFound):
        registry.files(version)
    assert registry.quarantine.versions() == []
    assert caplog.text == ""

"""Adapter folders that were copied into the store by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from manyhats.errors import NotFound, StorageFull
from manyhats.registry import drops
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry

from tests.registry.helpers import blobs, inspect, staged, upload, write_adapter

Open = Callable[..., Registry]
AT_ONCE = -1.0  # settled: however lately a folder was changed, it counts as copied
NEVER = 1e9


def taken(registry: Registry) -> dict[str, str]:
    outcomes, waiting = drops.scan(registry, settled=AT_ONCE)
    assert not waiting
    return {outcome.folder: outcome.outcome for outcome in outcomes}


def test_a_folder_is_copied_in_once(registry: Registry, store: Path) -> None:
    source = write_adapter(store / "spam")
    assert taken(registry) == {"spam": "taken in as version 1"}
    assert taken(registry) == {}
    assert sorted(p.name for p in source.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert staged(store) == []
    shutil.rmtree(source)
    assert taken(registry) == {}
    assert (registry.files(registry.resolve("spam")) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    "mark", ["adapter_config.json", "adapter_fusion_config.json", "adapter_setup.json", "manyhats.json"]
)
def test_every_format_is_seen(store: Path, mark: str) -> None:
    info = AdapterInfo("mask", "classify", None, 1, 1, None, None, None, {})
    registry = Registry(store, lambda folder: info)
    registry.open()
    for name, place in (("flat", "."), ("nested", "inner")):
        folder = store / name / place
        folder.mkdir(parents=True)
        (folder / mark).write_text("{}")
    assert sorted(taken(registry)) == ["flat", "nested"]
    registry.close()


def test_other_folders_are_left_alone(registry: Registry, store: Path, tmp_path: Path) -> None:
    for name in ("base", ".hidden", "no name", "-x"):
        write_adapter(store / name)
    (store / "empty").mkdir()
    write_adapter(store / "deep" / "er" / "still")
    (store / "adapter_config.json").write_text("{}")
    (store / "link").symlink_to(write_adapter(tmp_path / "outside"), target_is_directory=True)
    assert taken(registry) == {}


def test_links_inside_a_folder_are_not_followed(registry: Registry, store: Path, tmp_path: Path) -> None:
    folder = write_adapter(store / "spam")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "more.txt").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "secret.txt")
    (folder / "sub").symlink_to(tmp_path / "secrets", target_is_directory=True)
    assert taken(registry) == {"spam": "taken in as version 1"}
    kept = registry.files(registry.resolve("spam"))
    assert sorted(p.name for p in kept.rglob("*")) == ["adapter_config.json", "adapter_model.safetensors"]


def test_hidden_files_are_left_out_wherever_they_lie(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam" / "inner")
    for name in (".DS_Store", ".cache/x", "inner/.DS_Store", "inner/.cache/x.lock"):
        (store / "spam" / name).parent.mkdir(exist_ok=True)
        (store / "spam" / name).write_text("x")
    assert taken(registry) == {"spam": "taken in as version 1"}


def test_a_folder_that_was_dealt_with_stays_so(store: Path, opened: Open) -> None:
    """Neither a restart, nor a rollback, nor a deletion is undone by a folder that still lies there."""
    registry = opened(store)
    upload(registry, "spam", "before")
    write_adapter(store / "spam")
    write_adapter(store / "ham")
    assert sorted(taken(registry)) == ["ham", "spam"]
    registry.rollback("spam")
    registry.delete_task("ham")
    registry.close()
    again = opened(store)
    assert taken(again) == {}
    assert again.resolve("spam").number == 1
    with pytest.raises(NotFound):
        again.task("ham")


def test_a_changed_folder_is_a_new_version(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam", "one")
    taken(registry)
    write_adapter(store / "spam", "other content")
    assert taken(registry) == {"spam": "taken in as version 2"}
    assert registry.resolve("spam").number == 2
    os.utime(store / "spam" / "adapter_config.json", (1, 1))
    assert taken(registry) == {"spam": "already there as version 2"}


def test_a_folder_that_is_still_being_copied_waits(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam")
    assert drops.scan(registry, settled=NEVER) == ([], True)
    assert registry.count == 0
    assert taken(registry) == {"spam": "taken in as version 1"}


def test_a_bad_folder_is_told_once_and_tried_again_when_it_changes(
    registry: Registry, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_adapter(store / "good")
    write_adapter(store / "spam", bad=True)
    assert taken(registry) == {
        "good": "taken in as version 1",
        "spam": "refused: the adapter is marked bad",
    }
    assert taken(registry) == {}
    assert caplog.text.count("the adapter is marked bad") == 1
    write_adapter(store / "spam")
    assert taken(registry) == {"spam": "taken in as version 1"}


def test_a_pickle_is_refused_with_the_way_out(registry: Registry, store: Path) -> None:
    folder = write_adapter(store / "spam")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "manyhats convert" in taken(registry)["spam"]


def test_a_folder_that_breaks_inspect_does_not_hold_up_others(store: Path) -> None:
    def breaks(folder: Path) -> AdapterInfo:
        info = inspect(folder)
        if info.bytes > 11:
            raise ValueError("a fault of ours")
        return info

    registry = Registry(store, breaks)
    registry.open()
    write_adapter(store / "a-breaks", "long content")
    write_adapter(store / "z-good", "x")
    outcomes = taken(registry)
    assert outcomes["z-good"] == "taken in as version 1"
    assert "a fault of ours" in outcomes["a-breaks"]
    assert taken(registry) == {}
    registry.close()


def test_a_full_disk_is_not_the_folders_fault(registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(store / "spam")

    def full(*_: object, **__: object) -> None:
        raise StorageFull("the store has no room")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "add_version", full)
        taken(registry)
    assert taken(registry) == {"spam": "taken in as version 1"}
    assert len(blobs(store)) == 1


def test_a_folder_of_too_many_files_is_refused_not_cut(registry: Registry, store: Path) -> None:
    folder = write_adapter(store / "crowded")
    for i in range(1001):
        (folder / f"{i}.txt").write_text("")
    assert "at most 1000" in taken(registry)["crowded"]
    assert registry.count == 0


def test_a_folder_that_goes_away_meanwhile_does_not_hold_up_others(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-gone", "z-good"):
        write_adapter(store / name)
    look = drops._fingerprint

    def gone(folder: Path) -> tuple[str, float]:
        if folder.name == "a-gone":
            shutil.rmtree(folder)
        return look(folder)

    monkeypatch.setattr(drops, "_fingerprint", gone)
    outcomes, waiting = drops.scan(registry, settled=AT_ONCE)
    assert [str(outcome) for outcome in outcomes] == ["z-good: taken in as version 1"]
    assert waiting
    monkeypatch.undo()
    assert taken(registry) == {}


def test_a_folder_that_cannot_be_looked_into_does_not_hold_up_others(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-closed", "z-good"):
        write_adapter(store / name)
    look = drops._holds_adapter

    def closed(folder: Path) -> bool:
        if folder.name == "a-closed":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(drops, "_holds_adapter", closed)
    assert taken(registry) == {"z-good": "taken in as version 1"}


def test_a_nested_setup_keeps_its_folders(registry: Registry, store: Path) -> None:
    for part in ("one", "two"):
        write_adapter(store / "setup" / part, part)
    (store / "setup" / "adapter_setup.json").write_text("{}")
    assert taken(registry) == {"setup": "taken in as version 1"}
    kept = registry.files(registry.resolve("setup"))
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*.safetensors")} == {
        "one/adapter_model.safetensors",
        "two/adapter_model.safetensors",
    }
    write_adapter(store / "setup" / "two", "changed")
    assert taken(registry) == {"setup": "taken in as version 2"}


def test_the_source_is_never_changed(registry: Registry, store: Path) -> None:
    source = write_adapter(store / "spam")

    def state() -> list[tuple[str, int, int, bytes]]:
        return [
            (path.name, path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
            for path in sorted(source.iterdir())
        ]

    before = state()
    taken(registry)
    registry.delete_task("spam")
    assert state() == before

"""Adapter folders that were copied into the store by hand."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from manyhats.errors import NotFound, StorageFull
from manyhats.registry import folders as folders_module
from manyhats.registry import imports as imports_module
from manyhats.registry.folders import FolderFiles
from manyhats.registry.imports import FolderImport, FolderImports
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry

from tests.registry.helpers import blobs, inspect, staged, upload, write_adapter

Open = Callable[..., Registry]
AT_ONCE = -1.0  # settled: however lately a folder was changed, it counts as copied
NEVER = 1e9


def imported(registry: Registry) -> dict[str, str]:
    done, copying = FolderImports(registry, settled=AT_ONCE).scan()
    assert not copying
    return done


def listed(registry: Registry) -> dict[str, FolderImport]:
    imports = FolderImports(registry, settled=AT_ONCE)
    imports.scan()
    return {one.folder: one for one in imports.listed()}


def test_a_folder_is_copied_in_once(registry: Registry, store: Path) -> None:
    source = write_adapter(store / "spam")
    assert imported(registry) == {"spam": "taken in as version 1"}
    assert imported(registry) == {}
    assert sorted(p.name for p in source.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert staged(store) == []
    shutil.rmtree(source)
    assert imported(registry) == {}
    assert (registry.files(registry.resolve("spam")) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    "mark", ["adapter_config.json", "adapter_fusion_config.json", "adapter_setup.json", "manyhats.json"]
)
def test_every_format_is_seen(store: Path, mark: str) -> None:
    info = AdapterInfo("mask", "classify", None, 1, 1, None, None, None, {})
    registry = Registry(store, lambda folder, kind: info)
    registry.open()
    for name, place in (("flat", "."), ("nested", "inner")):
        folder = store / name / place
        folder.mkdir(parents=True)
        (folder / mark).write_text("{}")
    assert sorted(imported(registry)) == ["flat", "nested"]
    registry.close()


def test_other_folders_are_left_alone_and_named_where_they_hold_an_adapter(registry: Registry, store: Path) -> None:
    for name in ("base", ".hidden", "no name", "-x"):
        write_adapter(store / name)
    (store / "empty").mkdir()
    (store / "other").mkdir()
    (store / "other" / "notes.txt").write_text("x")
    write_adapter(store / "deep" / "er" / "still")
    (store / "adapter_config.json").write_text("{}")
    assert imported(registry) == {}
    reasons = {name: one.reason for name, one in listed(registry).items()}
    assert set(reasons) == {"base", "no name", "-x", "deep", "."}
    assert all("cannot be a task's name" in str(reasons[name]) for name in ("base", "no name", "-x"))
    assert "er/still" in str(reasons["deep"])
    assert "in the store itself" in str(reasons["."])


def test_hidden_files_are_left_out_wherever_they_lie(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam" / "inner")
    for name in (".DS_Store", ".cache/x", "inner/.DS_Store", "inner/.cache/x.lock"):
        (store / "spam" / name).parent.mkdir(exist_ok=True)
        (store / "spam" / name).write_text("x")
    assert imported(registry) == {"spam": "taken in as version 1"}


def test_a_folder_that_was_dealt_with_stays_so(store: Path, opened: Open) -> None:
    """Neither a restart, nor a rollback, nor a deletion is undone by a folder that still lies there."""
    registry = opened(store)
    upload(registry, "spam", "before")
    write_adapter(store / "spam")
    write_adapter(store / "ham")
    assert sorted(imported(registry)) == ["ham", "spam"]
    registry.rollback("spam")
    registry.delete_task("ham")
    registry.close()
    again = opened(store)
    assert imported(again) == {}
    assert again.resolve("spam").number == 1
    with pytest.raises(NotFound):
        again.task("ham")


def test_a_changed_folder_is_a_new_version(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam", "one")
    imported(registry)
    write_adapter(store / "spam", "other content")
    assert imported(registry) == {"spam": "taken in as version 2"}
    assert registry.resolve("spam").number == 2
    os.utime(store / "spam" / "adapter_config.json", (1, 1))
    assert imported(registry) == {"spam": "already there as version 2"}


def test_a_folder_that_is_still_being_copied_waits(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam")
    imports = FolderImports(registry, settled=NEVER)
    assert imports.scan() == ({}, True)
    assert imports.listed() == [FolderImport("spam", "waiting", reason="it is being copied")]
    assert registry.count == 0
    assert imported(registry) == {"spam": "taken in as version 1"}


def test_a_bad_folder_is_logged_once_and_tried_again_when_it_changes(
    registry: Registry, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_adapter(store / "good")
    write_adapter(store / "spam", bad=True)
    imports = FolderImports(registry, settled=AT_ONCE)
    assert imports.scan()[0] == {
        "good": "taken in as version 1",
        "spam": "refused: the adapter is marked bad",
    }
    assert imports.scan()[0] == {}
    assert caplog.text.count("the adapter is marked bad") == 1
    write_adapter(store / "spam")
    assert imported(registry) == {"spam": "taken in as version 1"}


def test_a_pickle_is_refused_with_the_way_out(registry: Registry, store: Path) -> None:
    folder = write_adapter(store / "spam")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "manyhats convert" in imported(registry)["spam"]


def test_a_folder_that_breaks_inspect_does_not_hold_up_others(store: Path) -> None:
    def breaks(folder: Path, kind: str | None = None) -> AdapterInfo:
        info = inspect(folder)
        if info.bytes > 11:
            raise ValueError("a fault of ours")
        return info

    registry = Registry(store, breaks)
    registry.open()
    write_adapter(store / "a-breaks", "long content")
    write_adapter(store / "z-good", "x")
    outcomes = imported(registry)
    assert outcomes["z-good"] == "taken in as version 1"
    assert "a fault of ours" in outcomes["a-breaks"]
    assert imported(registry) == {}
    registry.close()


@contextmanager
def full_disk(registry: Registry) -> Iterator[None]:
    """Within it the store has no room for a version."""

    def full(*_: object, **__: object) -> None:
        raise StorageFull("the store has no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "add_version", full)
        yield


def test_a_full_disk_is_not_the_folders_fault(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam")
    with full_disk(registry):
        imported(registry)
    assert imported(registry) == {"spam": "taken in as version 1"}
    assert len(blobs(store)) == 1


def test_a_folder_of_too_many_files_is_refused_not_cut(registry: Registry, store: Path) -> None:
    folder = write_adapter(store / "crowded")
    for i in range(1001):
        (folder / f"{i}.txt").write_text("")
    assert "at most 1000" in imported(registry)["crowded"]
    assert registry.count == 0


def test_a_folder_that_goes_away_meanwhile_does_not_hold_up_others(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-gone", "z-good"):
        write_adapter(store / name)
    look = imports_module.read_folder

    def gone(folder: Path, forbidden: Path) -> FolderFiles:
        if folder.name == "a-gone":
            shutil.rmtree(folder)
        return look(folder, forbidden)

    monkeypatch.setattr(imports_module, "read_folder", gone)
    assert FolderImports(registry, settled=AT_ONCE).scan() == ({"z-good": "taken in as version 1"}, True)
    monkeypatch.undo()
    assert imported(registry) == {}


def test_a_folder_that_cannot_be_looked_into_does_not_hold_up_others(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-closed", "z-good"):
        write_adapter(store / name)
    look = imports_module.adapter_folder

    def closed(folder: Path) -> Path | None:
        if folder.name == "a-closed":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(imports_module, "adapter_folder", closed)
    assert imported(registry) == {"z-good": "taken in as version 1"}
    assert listed(registry)["a-closed"] == FolderImport(
        "a-closed", "waiting", reason="it cannot be read: Permission denied"
    )


def test_a_nested_setup_keeps_its_folders(registry: Registry, store: Path) -> None:
    for part in ("one", "two"):
        write_adapter(store / "setup" / part, part)
    (store / "setup" / "adapter_setup.json").write_text("{}")
    assert imported(registry) == {"setup": "taken in as version 1"}
    kept = registry.files(registry.resolve("setup"))
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*.safetensors")} == {
        "one/adapter_model.safetensors",
        "two/adapter_model.safetensors",
    }
    write_adapter(store / "setup" / "two", "changed")
    assert imported(registry) == {"setup": "taken in as version 2"}


def test_the_source_is_never_changed(registry: Registry, store: Path) -> None:
    source = write_adapter(store / "spam")

    def state() -> list[tuple[str, int, int, bytes]]:
        return [
            (path.name, path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
            for path in sorted(source.iterdir())
        ]

    before = state()
    imported(registry)
    registry.delete_task("spam")
    assert state() == before


# ---- what is listed


def test_every_folder_is_listed_with_what_became_of_it(store: Path, opened: Open) -> None:
    registry = opened(store)
    write_adapter(store / "good")
    write_adapter(store / "bad", bad=True)
    (write_adapter(store / "trained") / "optimizer.pt").write_bytes(b"x")
    for again in (False, True):
        if again:
            registry.close()
            registry = opened(store)
        shown = listed(registry)
        assert shown["good"] == FolderImport("good", "taken_in", 1)
        assert shown["bad"] == FolderImport("bad", "refused", reason="the adapter is marked bad")
        assert (shown["trained"].status, shown["trained"].version) == ("taken_in", 1)
        assert "left out: optimizer.pt" in str(shown["trained"].reason)
    shutil.rmtree(store / "good")
    assert set(listed(registry)) == {"bad", "trained"}


def test_a_full_disk_is_listed_as_waiting(registry: Registry, store: Path) -> None:
    write_adapter(store / "spam")
    with full_disk(registry):
        assert listed(registry)["spam"] == FolderImport("spam", "waiting", reason="the store has no room")


def test_each_line_is_logged_once(registry: Registry, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_adapter(store / "good")
    write_adapter(store / "bad", bad=True)
    write_adapter(store / "no name")
    (store / "nowhere").symlink_to("missing")
    imports = FolderImports(registry, settled=AT_ONCE)
    for _ in range(3):
        imports.scan()
    lines = [record.getMessage() for record in caplog.records]
    for name in ("good", "bad", "no name", "nowhere"):
        assert len([line for line in lines if f"folder {name}" in line]) == 1


def test_a_trainers_log_that_grows_makes_no_new_version(registry: Registry, store: Path) -> None:
    folder = write_adapter(store / "spam")
    (folder / "trainer_state.json").write_text("{}")
    assert imported(registry) == {"spam": "taken in as version 1"}
    upload(registry, "spam", "two")
    (folder / "trainer_state.json").write_text('{"step": 7}')
    assert imported(registry) == {}
    assert registry.resolve("spam").number == 2


# ---- the clock of the day


@pytest.mark.parametrize("days", [1, 3650])
def test_a_clock_set_back_holds_up_no_folder(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """To it, the folder was changed in the future. That it lies still is seen all the same."""
    now = [1000.0]
    real = time.time
    monkeypatch.setattr(imports_module.time, "time", lambda: real() - days * 86_400)
    monkeypatch.setattr(imports_module.time, "monotonic", lambda: now[0])
    write_adapter(store / "spam")
    imports = FolderImports(registry, settled=2.0)
    assert imports.scan() == ({}, True)
    now[0] += 1.5
    write_adapter(store / "spam", "still being copied")
    assert imports.scan() == ({}, True)
    now[0] += 1.5
    assert imports.scan() == ({}, True)
    now[0] += 0.6
    assert imports.scan() == ({"spam": "taken in as version 1"}, False)


def test_a_folder_that_changes_while_it_is_copied_waits(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted ConfigMap is swapped as a whole: one half of the old and one of the new must not become a version."""
    folder = write_adapter(store / "spam")
    copy = folders_module.copy_file

    def swapped(source: Path, target: Path) -> None:
        copy(source, target)
        (folder / "adapter_model.safetensors").write_bytes(b"another, longer content")

    imports = FolderImports(registry, settled=AT_ONCE)
    with monkeypatch.context() as patch:
        patch.setattr(folders_module, "copy_file", swapped)
        assert imports.scan() == ({}, True)
    assert imports.listed()[0].status == "waiting"
    assert registry.count == 0
    assert imports.scan() == ({"spam": "taken in as version 1"}, False)

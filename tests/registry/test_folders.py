"""Links in the store: what an operator's own tools make is taken in, what could publish other files is not."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from manyhats.registry.folders import copy_file
from manyhats.registry.imports import FolderImport, FolderImports
from manyhats.registry.registry import Registry

from tests.registry.helpers import write_adapter

SECRET = "a secret of this machine"


def look(registry: Registry) -> dict[str, FolderImport]:
    looking = FolderImports(registry, settled=-1.0)
    looking.scan()
    return {one.folder: one for one in looking.listed()}


def kept(registry: Registry, task: str) -> dict[str, bytes]:
    """The files of the task's version. None of them is a link."""
    folder = registry.files(registry.resolve(task))
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An adapter elsewhere, with a card."""
    folder = write_adapter(tmp_path / "elsewhere" / "plain", "the weights")
    (folder / "README.md").write_text("# A card")
    return folder


def hub_cache(plain: Path, root: Path, revisions: tuple[str, ...] = ("abc",)) -> Path:
    """A model in the hub's cache, as `huggingface_hub` lays it out; refs/main is the first revision."""
    for folder in ("blobs", "refs"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(revisions[0])
    for revision in revisions:
        snapshot = root / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted(plain.iterdir())):
            shutil.copy(path, root / "blobs" / f"{number}")
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return root


def test_a_linked_folder(registry: Registry, store: Path, plain: Path) -> None:
    (store / "spam").symlink_to(plain, target_is_directory=True)
    assert look(registry)["spam"] == FolderImport("spam", "taken_in", 1)
    assert kept(registry, "spam") == content(plain)
    (plain / "adapter_model.safetensors").write_bytes(b"trained further")
    assert look(registry)["spam"].version == 2


def test_a_link_to_a_snapshot_of_the_hubs_cache(registry: Registry, store: Path, plain: Path, tmp_path: Path) -> None:
    cache = hub_cache(plain, tmp_path / "hub" / "models--org--name")
    (store / "spam").symlink_to(cache / "snapshots" / "abc", target_is_directory=True)
    assert look(registry)["spam"] == FolderImport("spam", "taken_in", 1)
    assert kept(registry, "spam") == content(plain)


def test_the_hubs_cache_in_the_store(registry: Registry, store: Path, plain: Path) -> None:
    hub_cache(plain, store / "models--org--name", ("abc", "def"))
    assert look(registry)["models--org--name"] == FolderImport("models--org--name", "taken_in", 1)
    assert kept(registry, "models--org--name") == content(plain)


def test_a_snapshot_copied_with_its_links(registry: Registry, store: Path, plain: Path, tmp_path: Path) -> None:
    """As `cp -a` does: what they led to was not copied. When it is, the folder is taken in."""
    cache = hub_cache(plain, tmp_path / "hub")
    shutil.copytree(cache / "snapshots" / "abc", store / "spam", symlinks=True)
    shown = look(registry)["spam"]
    assert shown.status == "refused"
    assert "'adapter_config.json' is a link to nothing" in str(shown.reason)
    for path in (store / "spam").iterdir():
        path.unlink()
        shutil.copy(plain / path.name, path)
    assert look(registry)["spam"].status == "taken_in"


def test_a_mounted_config_map(registry: Registry, store: Path, plain: Path) -> None:
    """The files are links to links: `..data` is swapped in one step when the map changes."""
    folder = store / "spam"
    shutil.copytree(plain, folder / "..2026_01")
    (folder / "..data").symlink_to("..2026_01")
    for path in plain.iterdir():
        (folder / path.name).symlink_to(f"..data/{path.name}")
    assert look(registry)["spam"] == FolderImport("spam", "taken_in", 1)
    assert kept(registry, "spam") == content(plain)
    write_adapter(folder / "..2026_02", "changed")
    shutil.copy(plain / "README.md", folder / "..2026_02")
    (folder / "..new").symlink_to("..2026_02")
    (folder / "..new").rename(folder / "..data")
    assert look(registry)["spam"].version == 2
    assert kept(registry, "spam")["adapter_model.safetensors"].endswith(b"changed")


def test_single_files_from_elsewhere(registry: Registry, store: Path, plain: Path) -> None:
    """The weights and the config are checked as they are read. A card is not: it could be any file of the machine."""
    folder = store / "spam"
    folder.mkdir()
    for path in plain.iterdir():
        (folder / path.name).symlink_to(path)
    shown = look(registry)["spam"]
    assert (shown.status, shown.version) == ("taken_in", 1)
    assert "README.md (a link that leads out of the folder)" in str(shown.reason)
    assert set(kept(registry, "spam")) == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("name", ["README.md", "chat_template.jinja", "notes.txt", "sub", "checkpoint-7"])
def test_no_file_of_the_machine_is_published(registry: Registry, store: Path, tmp_path: Path, name: str) -> None:
    """As from a repository that somebody cloned: git keeps links."""
    folder = write_adapter(store / "spam")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for file in ("README.md", "secret.txt", "chat_template.jinja"):
        (secrets / file).write_text(SECRET)
    (folder / name).symlink_to(secrets if "." not in name else secrets / "secret.txt")
    shown = look(registry)["spam"]
    if name == "chat_template.jinja":  # without it, the answers would be others
        assert shown.status == "refused"
        assert f"'{name}' is a link that leads out of the folder" in str(shown.reason)
    else:
        assert shown.status == "taken_in"
        assert name in str(shown.reason)
        assert not any(SECRET.encode() in data for data in kept(registry, "spam").values())


@pytest.mark.parametrize("link", ["", "inner"])
def test_nothing_leads_into_the_servers_own_files(registry: Registry, store: Path, link: str) -> None:
    write_adapter(store / "good")
    look(registry)
    if link:
        write_adapter(store / "spam")
        (store / "spam" / "head_config.json").symlink_to(store / ".manyhats" / "registry.sqlite3")
    else:
        (store / "spam").symlink_to(store / ".manyhats")
    shown = look(registry)["spam"]
    assert shown.status == "refused"
    assert "the server's own files" in str(shown.reason) or "the store itself" in str(shown.reason)


def test_circles_end(registry: Registry, store: Path, tmp_path: Path) -> None:
    folder = write_adapter(store / "spam")
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "round").symlink_to("round")
    (folder / "config.json").symlink_to("config.json")
    (store / "all").symlink_to(".")
    (store / "above").symlink_to(tmp_path)
    (store / "loop").symlink_to("loop")
    shown = look(registry)
    assert shown["all"].reason == shown["above"].reason == "it is a link to the store itself"
    assert shown["loop"].status == "refused"
    assert "'config.json' is a link that goes round in a circle" in str(shown["spam"].reason)
    (folder / "config.json").unlink()
    assert look(registry)["spam"].status == "taken_in"


def test_a_link_to_a_crowd_is_refused(registry: Registry, store: Path, tmp_path: Path) -> None:
    folder = write_adapter(store / "spam")
    crowd = tmp_path / "crowd"
    crowd.mkdir()
    for number in range(1100):
        (crowd / f"{number}.json").write_text("{}")
    (folder / "more").symlink_to(crowd)
    assert "at most 1000" in str(look(registry)["spam"].reason)


@pytest.mark.parametrize("name", ["pipe", "adapter_model.safetensors", "README.md"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device"])
def test_what_is_no_file_is_never_opened(
    registry: Registry, store: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    folder = write_adapter(store / "spam")
    place = folder / name
    place.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "socket":
            monkeypatch.chdir(folder)  # the whole path may be too long for a socket's name
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(name)
        case "device":
            try:
                os.mknod(place, 0o020666, os.makedev(1, 5))
            except PermissionError:
                pytest.skip("only root may make devices")
        case _:
            place.symlink_to("/dev/zero")
    shown = look(registry)["spam"]
    if name == "adapter_model.safetensors":
        assert shown.status == "refused"
        assert f"'{name}' is neither a file nor a folder" in str(shown.reason)
    else:
        assert shown.status == "taken_in"
        assert name in str(shown.reason)
        assert set(kept(registry, "spam")) == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_takes_the_place_of_a_file_meanwhile_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no file any more"):
        copy_file(tmp_path / "pipe", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

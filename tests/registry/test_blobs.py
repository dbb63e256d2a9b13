"""Blobs: kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhats.errors import InvalidRequest, StorageFull, UnsupportedFormat
from manyhats.registry.blobs import Blobs, check_files, digest

from tests.registry.helpers import write_adapter


@pytest.fixture
def store(tmp_path: Path) -> Blobs:
    blobs = Blobs(tmp_path / "root")
    blobs.open()
    return blobs


def left(tmp_path: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (tmp_path / "root" / kind).iterdir())


def test_the_digest_depends_on_names_and_content_alone(tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one")
    two = write_adapter(tmp_path / "elsewhere" / "two")
    assert digest(one) == digest(two)
    (two / "adapter_config.json").rename(two / "config.json")
    assert digest(one) != digest(two)
    assert digest(one) != digest(write_adapter(tmp_path / "three", "other content"))


def test_a_name_cannot_pass_for_content(tmp_path: Path) -> None:
    """Two files whose names and contents, written one after the other, read alike."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "a").write_text("b")
    (one / "c").write_text("d")
    (two / "ab").write_text("c")
    (two / "d").write_text("")
    assert digest(one) != digest(two)


def keep(store: Blobs, folder: Path) -> str:
    """Keeps a folder under its digest, and gives that."""
    name = digest(folder)
    store.keep(folder, name)
    return name


def test_what_is_kept_is_there_under_its_digest(store: Blobs, tmp_path: Path) -> None:
    with store.stage() as folder:
        write_adapter(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "notes.txt").write_text("x")
        expected = digest(folder)
        store.keep(folder, expected)
    assert digest(store.path(expected)) == expected
    assert left(tmp_path, "staging") == []


def test_the_same_content_again_is_kept_once(store: Blobs, tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with store.stage() as folder:
            names.add(keep(store, write_adapter(folder)))
    assert left(tmp_path, "blobs") == sorted(names)
    assert left(tmp_path, "staging") == []


def test_staging_is_removed_after_an_error(store: Blobs, tmp_path: Path) -> None:
    def breaks() -> None:
        with store.stage() as folder:
            write_adapter(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()
    assert left(tmp_path, "staging") == []


def test_removing_twice_is_fine(store: Blobs, tmp_path: Path) -> None:
    with store.stage() as folder:
        name = keep(store, write_adapter(folder))
    store.remove(name)
    store.remove(name)
    assert left(tmp_path, "blobs") == left(tmp_path, "staging") == []


def test_cleaning_leaves_what_versions_name(store: Blobs, tmp_path: Path) -> None:
    names = []
    for content in ("a", "b"):
        with store.stage() as folder:
            names.append(keep(store, write_adapter(folder, content)))
    write_adapter(tmp_path / "root" / "staging" / "left-by-a-kill")
    store.clean({names[0]})
    assert left(tmp_path, "blobs") == [names[0]]
    assert left(tmp_path, "staging") == []


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "a.pth", "a.ckpt", "sub/a.pkl", "a.pickle"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(UnsupportedFormat, match="manyhats convert PATH OUT"):
        check_files(folder)


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"\x80\x02}q\x00."])
def test_a_pickle_by_another_name_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "extra.safetensors").write_bytes(content)
    with pytest.raises(UnsupportedFormat, match=r"extra\.safetensors.*manyhats convert PATH OUT"):
        check_files(folder)


def test_the_length_of_a_real_safetensors_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes((0x80).to_bytes(8, "little") + b"{}" + b" " * 126)
    check_files(folder)


@pytest.mark.parametrize("name", ["run.sh", "model.onnx", "noending", "a.safetensors.py"])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / name).write_bytes(b"x")
    with pytest.raises(UnsupportedFormat, match=name):
        check_files(folder)


def test_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no files"):
        check_files(tmp_path)


def test_a_full_device_is_said_so(store: Blobs, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    source = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    with pytest.raises(StorageFull, match="no room"), store.stage(), open("/dev/full", "wb", buffering=0) as out:
        out.write(source.read_bytes())
    assert left(tmp_path, "staging") == []

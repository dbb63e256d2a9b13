"""Contents in folders: kept whole or not at all."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.errors import InvalidRequest, StorageFull, UnsupportedFormat
from manyhats.registry.blobs import contents, digest, keep_adapter_files
from manyhats.registry.blobs.local import LocalBlobs, signature_of

from tests.registry.helpers import write_adapter


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobs:
    blobs = LocalBlobs(tmp_path / "root")
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


def keep(store: LocalBlobs, folder: Path) -> str:
    """Keeps a folder under its digest, and gives that."""
    name = digest(folder)
    store.keep(folder, name)
    return name


def test_what_is_kept_is_there_under_its_digest(store: LocalBlobs, tmp_path: Path) -> None:
    with store.stage() as folder:
        write_adapter(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "notes.txt").write_text("x")
        expected = digest(folder)
        store.keep(folder, expected)
    assert digest(store.path(expected)) == expected
    assert left(tmp_path, "staging") == []


def test_the_same_content_again_is_kept_once(store: LocalBlobs, tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with store.stage() as folder:
            names.add(keep(store, write_adapter(folder)))
    assert left(tmp_path, "blobs") == sorted(names)
    assert left(tmp_path, "staging") == []


def test_staging_is_removed_after_an_error(store: LocalBlobs, tmp_path: Path) -> None:
    def breaks() -> None:
        with store.stage() as folder:
            write_adapter(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()
    assert left(tmp_path, "staging") == []


def test_removing_twice_is_fine(store: LocalBlobs, tmp_path: Path) -> None:
    with store.stage() as folder:
        name = keep(store, write_adapter(folder))
    store.remove(name)
    store.remove(name)
    assert left(tmp_path, "blobs") == left(tmp_path, "staging") == []


def test_cleaning_leaves_what_versions_name(store: LocalBlobs, tmp_path: Path) -> None:
    names = []
    for content in ("a", "b"):
        with store.stage() as folder:
            names.append(keep(store, write_adapter(folder, content)))
    write_adapter(tmp_path / "root" / "staging" / "left-by-a-kill")
    store.clean({names[0]})
    assert left(tmp_path, "blobs") == [names[0]]
    assert left(tmp_path, "staging") == []


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "a.pth", "a.ckpt", "a.pkl", "a.pickle", "adapter_model.bin"])
def test_weights_in_a_pickle_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / name)
    with pytest.raises(UnsupportedFormat, match="manyhats convert PATH OUT"):
        keep_adapter_files(folder)


@pytest.mark.parametrize("name", ["run.sh", "model.onnx", "noending", "a.safetensors.py", "training_args.bin"])
def test_other_files_are_removed_and_named(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    before = sorted(path.name for path in folder.iterdir())
    (folder / name).write_bytes(b"x")
    (warning,) = keep_adapter_files(folder)
    assert name in warning
    assert sorted(path.name for path in folder.iterdir()) == before


def test_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no files"):
        keep_adapter_files(tmp_path)


def test_a_full_device_is_said_so(store: LocalBlobs, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    source = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    with pytest.raises(StorageFull, match="no room"), store.stage(), open("/dev/full", "wb", buffering=0) as out:
        out.write(source.read_bytes())
    assert left(tmp_path, "staging") == []


@pytest.mark.parametrize("target", ["adapter_config.json", "/etc/hostname", "/", "nowhere"])
def test_links_are_refused_wherever_they_lead(tmp_path: Path, target: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").symlink_to(target)
    with pytest.raises(UnsupportedFormat, match=r"notes\.txt.*link"):
        keep_adapter_files(folder)


def test_the_digest_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    names = ["b.json", "a.json", "sub/c.json", "a/b.json", "a.b.json"]
    digests = set()
    for number, order in enumerate((names, names[::-1], sorted(names))):
        for name in order:
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        digests.add(digest(tmp_path / str(number)))
    assert len(digests) == 1
    assert len(digests.pop()) == 64


FILES = st.dictionaries(st.sampled_from(["a", "b", "ab", "sub/a", "sub/b"]), st.binary(max_size=3), min_size=1)


@given(FILES, FILES)
@settings(max_examples=60, deadline=None)
def test_two_folders_have_one_digest_only_if_they_are_alike(one: dict[str, bytes], two: dict[str, bytes]) -> None:
    digests = []
    for files in (one, two):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            digests.append(digest(Path(folder)))
    assert (digests[0] == digests[1]) == (one == two)


def test_content_of_another_upload_that_was_first_stays(store: LocalBlobs, tmp_path: Path) -> None:
    """The same content is put in place by another thread after this one has looked for it."""
    with store.stage() as first, store.stage() as second:
        name = digest(write_adapter(first))
        write_adapter(second)
        raced = False

        def race(path: Path) -> None:
            nonlocal raced
            if not raced:
                raced = True
                store.keep(second, name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("manyhats.registry.blobs.local._sync", race)
            store.keep(first, name)
    assert left(tmp_path, "blobs") == [name]
    assert digest(store.path(name)) == name
    assert left(tmp_path, "staging") == []


def test_a_blob_is_never_seen_half(store: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the last file is on the disk, there is no blob."""
    synced: list[Path] = []
    with store.stage() as folder:
        name = digest(write_adapter(folder))

        def note(path: Path) -> None:
            if path.is_relative_to(folder):
                assert not store.path(name).exists()
            synced.append(path)

        monkeypatch.setattr("manyhats.registry.blobs.local._sync", note)
        store.keep(folder, name)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in synced}
    assert synced[-1] == store.path(name).parent  # the rename itself


def test_a_digest_is_the_same_in_every_version(tmp_path: Path) -> None:
    """Stored contents are named by it. Files are sorted folder by folder, and read in several steps."""
    files = {"a.txt": b"one", "a/b": b"two", "A": b"", "large": b"0123456789abcdef" * (contents._STEP // 8)}
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    lines = [
        f"{len(name)}:{name}:{len(files[name])}:{hashlib.sha256(files[name]).hexdigest()}\n"
        for name in ("A", "a/b", "a.txt", "large")
    ]
    assert digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_signature_changes_with_the_files_and_is_none_without_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert signature_of(folder) is None
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("one")
    before = signature_of(folder)
    assert signature_of(folder) == before
    (folder / "inner" / "file").write_text("other")
    changed = signature_of(folder)
    assert changed != before
    (folder / "inner" / "gone").symlink_to("nowhere")
    assert signature_of(folder) != signature_of(folder), "what cannot be looked at is read again"

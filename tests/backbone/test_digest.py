"""The digest that names a checkpoint, and the cache that keeps it between starts."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import digest as digest_module
from manyhats.backbone.digest import Weights, checkpoint_digest, digest, named_weights
from manyhats.backbone.digest_cache import _ENTRIES, DigestCache, FileStamps
from manyhats.backbone.loading import load_model
from safetensors.torch import load_file, save_file

OLD = time.time() - 3600
KEY, DIGEST = "ab" * 32, "cd" * 32


def _plain(weights: Weights) -> str:
    """The definition, word by word."""
    total = hashlib.sha256()
    for name, tensor in weights:
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.float().contiguous().numpy().data)
    return total.hexdigest()


@pytest.mark.parametrize("chunk", [1, 5, 7, 4 << 20])
def test_the_digest_is_what_it_always_was(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_module, "_CHUNK", chunk)
    weights = [
        ("a", torch.randn(3, 5)),
        ("b", torch.randn(4, 6).bfloat16().T),
        ("c", torch.tensor(2.5)),
        ("d", torch.empty(0, 3)),
        ("e", torch.arange(7)),
        ("f", torch.randn(20).half()),
    ]
    assert digest(weights) == _plain(weights)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_the_digest_of_a_checkpoint(family: str, base_folder) -> None:
    loaded = load_model(str(base_folder(family)))
    weights = named_weights(loaded.model, loaded.missing, loaded.vocabulary)
    assert digest(weights) == _plain(weights)


def test_no_weight_is_converted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a few chunks are in float32 at a time, however large the weights are."""
    monkeypatch.setattr(digest_module, "_CHUNK", 16)
    made: list[int] = []
    whole = torch.Tensor.float

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        made.append(tensor.numel())
        return whole(tensor)

    monkeypatch.setattr(torch.Tensor, "float", counted)
    digest([("a", torch.zeros(40, 40, dtype=torch.bfloat16))])
    assert len(made) == 100
    assert max(made) == 16


# ---- between starts


@pytest.fixture
def folder(base_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny BERT, with what is tiny worth keeping."""
    monkeypatch.setattr(digest_module, "_WORTH_KEEPING", 0)
    monkeypatch.setattr("manyhats.backbone.digest_cache._SETTLED", -3600)  # as if the files had been there for long
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(base_folder("bert"), tmp_path / "model"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really computed."""
    found: list[str] = []

    def counted(weights: Weights) -> str:
        found.append(digest(weights))
        return found[-1]

    monkeypatch.setattr(digest_module, "digest", counted)
    return found


def _of(folder: Path | str) -> str:
    loaded = load_model(str(folder))
    weights = named_weights(loaded.model, loaded.missing, loaded.vocabulary)
    found = checkpoint_digest(weights, loaded.stamps)
    assert found == digest(weights)
    return found


def test_it_is_computed_once(folder: Path, computed: list[str], tmp_path: Path) -> None:
    first = _of(folder)
    assert _of(folder) == first
    assert computed == [first]
    (kept,) = (tmp_path / "cache" / "manyhats" / "digests").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def _change_values(folder: Path) -> None:
    """In one value of the middle, with the size and the times of the former file."""
    path = folder / "model.safetensors"
    before = path.stat()
    weights = {name: t.clone() for name, t in load_file(path).items()}
    weights["encoder.layer.0.output.dense.weight"][3, 3] += 1
    save_file(weights, folder / "new", metadata={"format": "pt"})
    path.write_bytes((folder / "new").read_bytes())  # its inode stays
    (folder / "new").unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(folder: Path) -> None:
    _change_values(folder)
    path = folder / "model.safetensors"
    os.replace(shutil.copy2(path, folder / "other"), path)


def _set_back_in_time(folder: Path) -> None:
    os.utime(folder / "model.safetensors", (OLD, OLD))


@pytest.mark.parametrize("change", [_change_values, _replace, _set_back_in_time])
def test_a_change_of_a_file_is_seen(change: Callable[[Path], None], folder: Path, computed: list[str]) -> None:
    _of(folder)
    change(folder)
    _of(folder)
    assert len(computed) == 2


def test_values_are_looked_at_beside_the_stamps(folder: Path, computed: list[str]) -> None:
    """A file system may make its stamps up."""
    loaded = load_model(str(folder))
    weights = list(named_weights(loaded.model, loaded.missing))
    first = checkpoint_digest(weights, loaded.stamps)
    other = [(name, tensor + 1) for name, tensor in weights]
    assert checkpoint_digest(other, loaded.stamps) != first
    assert len(computed) == 2


def test_files_that_changed_lately_are_not_kept(
    folder: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manyhats.backbone.digest_cache._SETTLED", 10)
    _of(folder)
    _of(folder)
    assert len(computed) == 2


def test_files_that_change_meanwhile_are_not_kept(folder: Path, computed: list[str]) -> None:
    loaded = load_model(str(folder))
    _set_back_in_time(folder)
    checkpoint_digest(named_weights(loaded.model, loaded.missing), loaded.stamps)
    _of(folder)
    _of(folder)
    assert len(computed) == 2


def test_weights_of_another_folder_are_not_kept(folder: Path) -> None:
    assert FileStamps.of(folder) is not None
    (folder / "adapter_config.json").write_text("{}")
    assert FileStamps.of(folder) is None


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "none.bin"}}'])
def test_an_index_that_says_nothing_means_no_stamps(index: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    assert FileStamps.of(folder) is None


def test_shards_in_other_folders_have_stamps(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "1.safetensors").write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "parts/1.safetensors"}}')
    stamps = FileStamps.of(folder)
    assert stamps is not None
    assert {"parts/1.safetensors", "model.safetensors", "config.json"} <= {file[0] for file in stamps.files}
    (folder / "parts" / "1.safetensors").write_bytes(b"y")
    assert not stamps.unchanged()


def test_a_blob_of_the_hubs_cache_stands_for_its_content(folder: Path, computed: list[str], tmp_path: Path) -> None:
    """The inode and the time of its last change are others in every container."""

    def cache(name: str, like: Path) -> Path:
        blobs, snapshot = tmp_path / name / "blobs", tmp_path / name / "snapshots" / "main"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for path in like.iterdir():
            blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy2(path.resolve(), blob)
            (snapshot / path.name).symlink_to(blob)
        return snapshot

    first = cache("one", folder)
    second = cache("two", first)
    assert _of(first) == _of(second)
    assert len(computed) == 1
    _change_values(folder)
    _of(cache("three", folder))
    assert len(computed) == 2


# ---- the cache's own files


def test_an_entry_comes_back(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    cache.put(KEY, DIGEST)
    assert cache.get(KEY) == DIGEST
    assert cache.get("ef" * 32) is None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [KEY]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] = ord("0")
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 2000),
        lambda path: path.write_bytes(path.read_bytes() * 2),
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o777),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (shutil.copy(path, path.with_name("x")), path.unlink(), path.symlink_to("x")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_what_cannot_be_trusted_is_not_read(damage: Callable[[Path], object], tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    cache.put(KEY, DIGEST)
    damage(tmp_path / "cache" / KEY)
    assert cache.get(KEY) is None
    cache.put(KEY, DIGEST)  # never an error


def test_an_entry_of_another_key_is_not_taken(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    cache.put(KEY, DIGEST)
    (tmp_path / "cache" / KEY).rename(tmp_path / "cache" / ("ef" * 32))
    assert cache.get("ef" * 32) is None


def test_somebody_elses_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DigestCache(tmp_path / "cache")
    cache.put(KEY, DIGEST)
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    assert cache.get(KEY) is None
    cache.put(KEY, DIGEST)


def test_where_nothing_can_be_written_the_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = DigestCache(tmp_path / "file" / "cache")
    with caplog.at_level("INFO"):
        cache.put(KEY, DIGEST)
    assert "not kept" in caplog.text
    assert cache.get(KEY) is None

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", homeless)
    nowhere = DigestCache.of_user()
    nowhere.put(KEY, DIGEST)
    assert nowhere.get(KEY) is None


def test_its_size_is_bounded(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    for i in range(_ENTRIES + 5):
        cache.put(f"{i:064x}", DIGEST)
        os.utime(tmp_path / "cache" / f"{i:064x}", (i, i))
    assert len(list((tmp_path / "cache").iterdir())) == _ENTRIES
    assert cache.get(f"{0:064x}") is None
    assert cache.get(f"{_ENTRIES + 4:064x}") == DIGEST

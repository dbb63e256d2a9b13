"""Safetensors files: bounds before reading, the library's own rules, and mapped tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.errors import InvalidRequest, TooLarge
from manyhats.formats import tensor_file
from manyhats.formats.files import read_tensors
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def entry(start: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


DAMAGED = {
    "overlapping": ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "a gap": ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "a gap before": ({"a": entry(4, 8)}, bytes(8)),
    "data left over": ({"a": entry(0, 4)}, bytes(8)),
    "out of the file": ({"a": entry(0, 1 << 40)}, bytes(4)),
    "backwards": ({"a": entry(8, 0, shape=[2])}, bytes(8)),
    "a negative dimension": ({"a": entry(0, 8, shape=[-2])}, bytes(8)),
    "a fraction of a dimension": ({"a": entry(0, 8, shape=[2.0])}, bytes(8)),
    "another size": ({"a": entry(0, 8, shape=[3])}, bytes(8)),
    "dimensions that overflow": ({"a": entry(0, 8, shape=[1 << 62, 1 << 62])}, bytes(8)),
    "an unknown type": ({"a": entry(0, 8, "Q9", [8])}, bytes(8)),
    "no type": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)),
    "a tensor that is a number": ({"a": 1}, b""),
    "a list": ([], b""),
    "a comma too many": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}', bytes(4)),
    "no comma": (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]} "b":{}}', bytes(4)),
    "something behind": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} {}', bytes(4)),
    "cut off": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', bytes(4)),
    "no text": (b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "half a character": (b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "nested deeply": (b'{"a":' + b"[" * 5000, b""),
    "empty": (b"", b""),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_the_library_refuses_is_refused(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "x.safetensors", *DAMAGED[what])
    with pytest.raises((SafetensorError, ValueError)), safe_open(path, framework="pt") as file:
        file.keys()
    with pytest.raises(InvalidRequest, match="damaged"):
        read_tensors(path)


def test_what_the_library_reads_is_read(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5),
        "none": torch.zeros(0, 4),
        "half": torch.randn(7).half(),
        "brain": torch.randn(1, 1, 3).bfloat16(),
        "double": torch.randn(2).double(),
        "site.mask": torch.arange(5, dtype=torch.uint8),
        "x.indices": torch.arange(4),
        "scalar": torch.tensor(2.5),
        "ä": torch.ones(1),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "a": '{"b": [1]}'})
    copied = read_tensors(path)
    with tensor_file.mapped(tmp_path):
        views = read_tensors(path)
    for found in (copied, views):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    assert read_tensors(write(tmp_path / "none.safetensors", b"{}   ")) == {}


def test_data_at_odd_places_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a copy of it in memory where files are mapped, and without a file that stays."""
    values = {"b": torch.randn(50_000), "c": torch.randn(3).half(), "d": torch.randn(2, 5, dtype=torch.float64)}
    header, data = {"a.mask": entry(0, 1, "U8", [1])}, b"\1"
    for (name, value), kind in zip(values.items(), ("F32", "F16", "F64"), strict=True):
        header[name] = entry(len(data), len(data) + value.nbytes, kind, list(value.shape))
        data += value.numpy().tobytes()
    folder = tmp_path / "adapter"
    folder.mkdir()
    path = write(folder / "x.safetensors", header, data)
    plain = read_tensors(path)
    monkeypatch.setattr(tensor_file, "_CHUNK", 4096)
    sizes: list[int] = []
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, **how: (sizes.append(empty(*shape, **how).nbytes), empty(*shape, **how))[1]
    )
    with tensor_file.mapped(folder):
        mapped = read_tensors(path)
    assert max(sizes) <= 4096
    for name, value in values.items():
        assert torch.equal(plain[name], value)
        assert torch.equal(mapped[name], value)
    assert list(mapped) == list(plain)
    assert [one.name for one in tmp_path.rglob("*")] == ["adapter", "x.safetensors"]


def test_sizes_and_counts_are_checked_before_anything_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "_items", lambda text: pytest.fail("it is parsed"))
    path = tmp_path / "x.safetensors"
    with pytest.raises(TooLarge, match=r"header of x\.safetensors is"):
        read_tensors(write(path, b"{" + b" " * tensor_file.MAX_HEADER + b"}"))
    one = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    with pytest.raises(TooLarge, match="more than 100000 tensors"):
        read_tensors(write(path, b"{" + b",".join(one % i for i in range(tensor_file.MAX_TENSORS + 2)) + b"}"))
    for header in (b'{"a":' + b"[" * 300_000, b'{"a":' + b"{" * 200_000):
        with pytest.raises(TooLarge):
            read_tensors(write(path, header))
    with pytest.raises(InvalidRequest, match="header would be"):
        read_tensors(write(path, b"{}", length=1 << 63))


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b'{"a":%s,"a":%s}' % ((b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',) * 2), bytes(4), "twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4), "twice"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1%s]}}' % (b"0" * 400), bytes(4), "too large"),
        ({"a" * 5000: entry(0, 4)}, bytes(4), "5000 characters"),
        ({"a": entry(0, 4, shape=[1] * 60)}, bytes(4), "60 dimensions"),
        ({"a": entry(0, 8, "I64", [1])}, bytes(8), "type I64, which is not supported"),
        ({"a": entry(0, 1, "U8", [1])}, bytes(1), "type U8, which is not supported"),
        ({"a": entry(0, 2, "F8_E5M2", [2])}, bytes(2), "type F8_E5M2, which is not supported"),
    ],
)
def test_what_no_adapter_has(tmp_path: Path, header: Any, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        read_tensors(write(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_found_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(tensor_file, "_CHUNK", 64)  # bytes
    path = tmp_path / "x.safetensors"
    for at in (0, 50, 99):
        for bad in (float("nan"), float("inf"), -float("inf")):
            value = torch.ones(100, dtype=dtype)
            value[at] = bad
            save_file({"a": torch.ones(3), "b": value}, path)
            with tensor_file.mapped(tmp_path if views else tmp_path / "elsewhere"):
                with pytest.raises(InvalidRequest, match="at least 1 values that are NaN"):
                    read_tensors(path)
                save_file({"a": torch.ones(3), "b": torch.ones(100, dtype=dtype)}, path)
                read_tensors(path)


def test_a_mapped_file_is_not_copied_and_any_other_is(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(300), "b": torch.ones(300)}, path)
    with tensor_file.mapped(tmp_path):
        views = read_tensors(path)
    assert views["a"].untyped_storage().data_ptr() == views["b"].untyped_storage().data_ptr()
    with tensor_file.mapped(tmp_path / "elsewhere"):
        copies = read_tensors(path)
    assert copies["a"].untyped_storage().nbytes() == 2400 < views["a"].untyped_storage().nbytes()  # the data alone
    views.clear()
    path.write_bytes(b"")
    assert copies["a"].sum() + copies["b"].sum() == 600


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(100_000)}, path)
    real = tensor_file.read_header

    def cut(file: Any, name: str) -> Any:
        found = real(file, name)
        with path.open("r+b") as other:
            other.truncate(200)
        return found

    monkeypatch.setattr(tensor_file, "read_header", cut)
    with pytest.raises(InvalidRequest, match="ends too early"):
        read_tensors(path)


def test_a_header_that_several_files_have_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    entry_of = tensor_file._entry
    monkeypatch.setattr(tensor_file, "_entry", lambda name, *rest: parsed.append(name) or entry_of(name, *rest))
    for value in range(3):
        save_file({"parsed_once": torch.full((4,), float(value))}, tmp_path / f"{value}.safetensors")
        (tmp_path / f"{value}").mkdir()
        path = (tmp_path / f"{value}.safetensors").rename(tmp_path / f"{value}" / "x.safetensors")
        assert read_tensors(path)["parsed_once"].tolist() == [value] * 4
    assert parsed == ["parsed_once"]

"""A content as one object: a tar that any tool reads, and that is believed in nothing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.registry.blobs.base import DamagedBlob
from manyhats.registry.blobs.contents import digest, listing, parse_listing
from manyhats.registry.blobs.packed import LISTING, pack, unpack

NAMES = ["a.json", "sub/b.txt", "ü\n:1", "x" * 150 + ".json"]


def packed(folder: Path) -> tuple[str, bytes]:
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([i]) * i * 400)
    size, chunks = pack(folder)
    data = b"".join(chunks())
    assert len(data) == size
    return digest(folder), data


def test_there_and_back(tmp_path: Path) -> None:
    sha, data = packed(tmp_path / "in")
    asked: list[tuple[int, int]] = []
    reserved: list[int] = []

    def get(start: int, stop: int) -> tuple[bytes, int]:
        asked.append((start, stop))
        return data[start:stop], len(data)

    (tmp_path / "out").mkdir()
    size = unpack(get, sha, tmp_path / "out", reserved.append)
    assert digest(tmp_path / "out") == sha
    assert reserved == [size] == [400 + 800 + 1200]
    assert len(asked) == 1


def test_other_tools_read_it(tmp_path: Path) -> None:
    _, data = packed(tmp_path / "in")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == sorted([LISTING, *NAMES])
        assert tar.extractfile(LISTING).read() == listing(tmp_path / "in")


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "", "."])
def test_a_name_that_leads_out_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="called"):
        parse_listing(f"{len(name)}:{name}:1:{'0' * 64}\n".encode())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_change_is_noticed_and_no_more_is_asked_for_than_was_put(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        sha, right = packed(Path(name) / "in")
        wrong = bytearray(right)
        for _ in range(data.draw(st.integers(1, 3))):
            wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= data.draw(st.integers(1, 255))
        longer = bytes(wrong) + b"x" * data.draw(st.integers(0, 2000))
        last = 0

        def get(start: int, stop: int) -> tuple[bytes, int]:
            nonlocal last
            last = max(last, stop)
            return longer[start:stop], len(longer)

        out = Path(name) / "out"
        out.mkdir()
        try:
            unpack(get, sha, out, lambda size: None)
        except DamagedBlob:
            pass
        else:  # only headers and paddings have changed
            assert digest(out) == sha
        assert last <= 1 << 20

"""Archives: nothing they say about themselves is believed."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manyhats.errors import InvalidRequest, ManyhatsError, TooLarge, UnsupportedFormat
from manyhats.registry.archive import ArchiveLimits, unpack, unpack_adapter

LIMITS = ArchiveLimits(max_files=20, max_bytes=1 << 20)
Members = dict[str, bytes]
Packer = Callable[[Members], bytes]


def pack_zip(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _tar(members: Members, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_tar(members: Members) -> bytes:
    return _tar(members, "w")


def pack_tgz(members: Members) -> bytes:
    return _tar(members, "w:gz")


PACKERS = pytest.mark.parametrize("pack", [pack_zip, pack_tar, pack_tgz])


def unpacked(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS, name: str = "a.zip") -> Members:
    path, into = tmp_path / "archive", tmp_path / "into"
    path.write_bytes(data)
    into.mkdir(exist_ok=True)
    unpack(path, name, into, limits)
    return {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}


def tar_of(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    info.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@PACKERS
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.safetensors", ""])
def test_files_come_out_whatever_the_name_says(tmp_path: Path, pack: Packer, name: str) -> None:
    members = {"a.json": b"{}", "sub/b.safetensors": b"x" * 5000}
    assert unpacked(tmp_path, pack(members), name=name) == members


@PACKERS
def test_one_top_folder_is_left_out(tmp_path: Path, pack: Packer) -> None:
    assert unpacked(tmp_path, pack({"top/a.json": b"1", "top/sub/b.json": b"2"})) == {
        "a.json": b"1",
        "sub/b.json": b"2",
    }


@PACKERS
@pytest.mark.parametrize("inner", [".lifted", "top", ".lifted/top"])
def test_a_top_folder_may_hold_any_name(tmp_path: Path, pack: Packer, inner: str) -> None:
    members = {f"top/{inner}/a.json": b"1", "top/b.json": b"2"}
    assert unpacked(tmp_path, pack(members)) == {f"{inner}/a.json": b"1", "b.json": b"2"}


@PACKERS
def test_what_macs_add_is_left_out(tmp_path: Path, pack: Packer) -> None:
    members = {"top/a.json": b"1", "__MACOSX/top/._a.json": b"x", "top/.DS_Store": b"x", "top/._a.json": b"x"}
    assert unpacked(tmp_path, pack(members)) == {"a.json": b"1"}


@PACKERS
@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x.json", "/x.json", "a\\x.json", "..\\x.json", "C:/x.json", "n" * 256 + ".json"]
)
def test_names_that_lead_outside_are_refused(tmp_path: Path, pack: Packer, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not allowed"):
        unpacked(tmp_path, pack({"ok.json": b"", name: b"x"}))
    assert {p.name for p in tmp_path.iterdir()} == {"archive", "into"}


def test_a_nul_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        unpacked(tmp_path, pack_zip({"#": b"x"}).replace(b"#", b"\0"))


def test_a_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    data = pack_zip({"a.jsonX.sh": b"x"}).replace(b"a.jsonX.sh", b"a.json\0.sh")
    with pytest.raises(InvalidRequest):
        unpacked(tmp_path, data)


@PACKERS
def test_deep_folders_are_refused(tmp_path: Path, pack: Packer) -> None:
    assert unpacked(tmp_path, pack({"a/b/c/d.json": b""})) == {"d.json": b""}
    with pytest.raises(InvalidRequest, match="deep"):
        unpacked(tmp_path, pack({"a/b/c/d/e.json": b""}))


@PACKERS
def test_a_name_in_two_places_is_refused(tmp_path: Path, pack: Packer) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        unpacked(tmp_path, pack({"a.json": b"1", "./a.json": b"2"}))


@PACKERS
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_for_file_and_folder_is_refused(tmp_path: Path, pack: Packer, names: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        unpacked(tmp_path, pack(dict.fromkeys(names, b"x")))


def test_the_same_name_again_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed.writestr("a.json", "1")
        packed.writestr("a.json", "2")
    with pytest.raises(InvalidRequest, match=r"a\.json.*twice"):
        unpacked(tmp_path, buffer.getvalue())


@PACKERS
def test_too_many_files_are_refused(tmp_path: Path, pack: Packer) -> None:
    with pytest.raises(TooLarge, match="20"):
        unpacked(tmp_path, pack({f"{i}.json": b"" for i in range(21)}))


@PACKERS
def test_too_many_bytes_are_refused(tmp_path: Path, pack: Packer) -> None:
    members = {"a.json": b"x" * (1 << 20)}
    assert unpacked(tmp_path, pack(members)) == members
    with pytest.raises(TooLarge, match=str(1 << 20)):
        unpacked(tmp_path, pack({"b.json": b"x" * (1 << 19), "c.json": b"x" * ((1 << 19) + 1)}))


def test_a_bomb_is_stopped_while_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        unpacked(tmp_path, pack_zip({"a.json": bytes(64 << 20)}))
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*")) <= 1 << 20


def test_a_zip_that_lies_about_its_sizes_writes_no_more_than_it_may(tmp_path: Path) -> None:
    """The header says 10 bytes where there are 8 MiB."""
    size = 8 << 20
    data = pack_zip({"a.json": bytes(size)}).replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises((InvalidRequest, TooLarge)):
        unpacked(tmp_path, data)
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*")) <= 1 << 20


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_bomb_in_a_header_is_stopped(tmp_path: Path, kind: bytes) -> None:
    """Long names and extended headers are read into memory by tarfile, whole."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 << 20
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises((TooLarge, InvalidRequest)):
        unpacked(tmp_path, gzip.compress(header + bytes(64 << 20), 1))
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize("name", ["._junk", "__MACOSX/x", "folder"])
def test_a_bomb_in_what_is_left_out_is_stopped(tmp_path: Path, name: str) -> None:
    """Skipping a member of a tar.gz means unpacking it, too."""
    with pytest.raises(TooLarge):
        unpacked(tmp_path, pack_tgz({name: bytes(64 << 20), "a.json": b"1"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a.json")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(InvalidRequest, match=r"a\.json.*link or a device"):
        unpacked(tmp_path, tar_of(info))


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666, 0o140666])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    info = zipfile.ZipInfo("a.json")
    info.create_system, info.external_attr = 3, mode << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidRequest, match=r"a\.json.*link or a device"):
        unpacked(tmp_path, buffer.getvalue())


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(pack_zip({"a.json": b"1"}))
    data[6] |= 1  # the flag in the local header, then the one in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsupportedFormat, match=r"a\.json.*encrypted"):
        unpacked(tmp_path, bytes(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x1f\x8b", gzip.compress(b"no tar", mtime=0), bytes(4096)],
    ids=["nothing", "text", "the start of a gzip", "a gzip of no tar", "zeros"],  # a gzip has the time in it
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises((UnsupportedFormat, InvalidRequest)):
        unpacked(tmp_path, data)


@PACKERS
def test_an_empty_archive_is_refused(tmp_path: Path, pack: Packer) -> None:
    with pytest.raises(ManyhatsError):
        unpacked(tmp_path, pack({}))


@pytest.mark.parametrize("pack", [pack_zip, pack_tgz])
@given(cut=st.integers(1, 400))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_archive_is_refused(tmp_path_factory: pytest.TempPathFactory, pack: Packer, cut: int) -> None:
    data = pack({"a.json": bytes(range(256)) * 2, "b.json": b"2"})
    with pytest.raises((InvalidRequest, UnsupportedFormat)):
        unpacked(tmp_path_factory.mktemp("cut"), data[:-cut])


@pytest.mark.parametrize("pack", [pack_zip, pack_tar, pack_tgz])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_archive_gives_errors_of_ours_alone(
    tmp_path_factory: pytest.TempPathFactory, pack: Packer, data: st.DataObject
) -> None:
    packed = bytearray(pack({"top/a.json": b"1" * 300, "top/b.json": b"2"}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    with suppress(ManyhatsError):
        unpacked(folder, bytes(packed))
    assert {p.name for p in folder.iterdir()} == {"archive", "into"}


PARTS = st.text(st.sampled_from("ab./\\:~ é"), min_size=1, max_size=12)


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
@given(names=st.lists(PARTS, min_size=1, max_size=4, unique=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_leads_outside(tmp_path_factory: pytest.TempPathFactory, pack: Packer, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("names") / "deep" / "er"
    folder.mkdir(parents=True)
    with suppress(ManyhatsError):
        unpacked(folder, pack(dict.fromkeys(names, b"x")))
    above = folder.parent.parent
    assert [p.name for p in above.iterdir()] == ["deep"]
    assert [p.name for p in folder.parent.iterdir()] == ["er"]
    assert {p.name for p in folder.iterdir()} == {"archive", "into"}


@PACKERS
def test_what_is_accepted_of_a_truncated_archive_is_whole(tmp_path: Path, pack: Packer) -> None:
    """A tar ends with more zeros than it needs; those may be missing."""
    members = {"a.json": bytes(range(256)) * 3, "sub/b.json": b"2" * 600}
    data = pack(members)
    accepted = 0
    for number, end in enumerate(range(0, len(data), max(1, len(data) // 120))):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            assert unpacked(folder, data[:end]) == members
        except (InvalidRequest, UnsupportedFormat):
            continue
        accepted += 1
    assert accepted == 0 or pack is pack_tar


@PACKERS
def test_too_many_folders_are_refused(tmp_path: Path, pack: Packer) -> None:
    with pytest.raises(TooLarge):
        unpacked(
            tmp_path,
            pack({f"{i}/" if pack is pack_zip else f"__MACOSX/{i}": b"" for i in range(16 * LIMITS.max_files + 1)}),
        )


@PACKERS
def test_two_top_folders_stay(tmp_path: Path, pack: Packer) -> None:
    members = {"one/a.json": b"1", "two/b.json": b"2"}
    assert unpacked(tmp_path, pack(members)) == members


@pytest.mark.parametrize("size", [5, 2 << 20, 1 << 40])
def test_a_tar_whose_header_lies_about_a_size_is_refused(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("a.json")
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises((InvalidRequest, TooLarge)):
        unpacked(tmp_path, gzip.compress(header + b"1234"))
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*")) <= 1 << 20


def test_a_small_tar_that_is_huge_unpacked_is_stopped(tmp_path: Path) -> None:
    data = pack_tgz({f"{i}.json": bytes(1 << 19) for i in range(10)})
    assert len(data) < 10_000
    with pytest.raises(TooLarge):
        unpacked(tmp_path, data)
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*")) <= 1 << 20


def test_a_zip_of_overlapping_members_is_stopped(tmp_path: Path) -> None:
    """Many entries of the directory that name one and the same compressed block."""
    data = pack_zip({"a.json": bytes(1 << 18)})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry, tail = data[start:end], bytearray(data[end:])
    count = 15
    entries = b"".join(entry.replace(b"a.json", f"{chr(98 + i)}.json".encode()) for i in range(count))
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    with pytest.raises((InvalidRequest, TooLarge)):
        unpacked(tmp_path, data[:start] + entries + bytes(tail))
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*")) <= 1 << 20


@pytest.mark.parametrize("pack", [pack_tar, pack_tgz])
def test_a_damaged_header_between_two_members_loses_none_of_them(tmp_path: Path, pack: Packer) -> None:
    data = bytearray(pack_tar({"a.json": b"1", "b.json": b"2"}))
    data[1024 + 148] ^= 1  # in the checksum of the second header
    with pytest.raises(InvalidRequest, match="ends too early"):
        unpacked(tmp_path, gzip.compress(bytes(data)) if pack is pack_tgz else bytes(data))


@PACKERS
@given(
    members=st.dictionaries(
        st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3}){0,2}\.(json|md)", fullmatch=True),
        st.binary(max_size=2000),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_packed_comes_out(tmp_path_factory: pytest.TempPathFactory, pack: Packer, members: Members) -> None:
    """But for the top folders that hold everything."""
    while len({name.partition("/")[0] for name in members}) == 1 and all("/" in name for name in members):
        members = {name.partition("/")[2]: content for name, content in members.items()}
    assert unpacked(tmp_path_factory.mktemp("whole"), pack({f"top/{n}": c for n, c in members.items()})) == members


# ---- what is refused or left out before anything is unpacked


@PACKERS
def test_what_is_not_chosen_is_neither_unpacked_nor_counted(tmp_path: Path, pack: Packer) -> None:
    members = {"a.json": b"{}", "top/checkpoint-1/optimizer.pt": b"x" * 5000, "b/c/d/e/f/deep.txt": b"x"}
    members |= {f"logs/{i}": b"" for i in range(2 * LIMITS.max_files)}
    path, into = tmp_path / "archive", tmp_path / "into"
    path.write_bytes(pack(members))
    into.mkdir()
    seen: dict[str, int] = {}

    def choose(sizes: Mapping[str, int]) -> list[str]:
        assert not list(into.iterdir())
        seen.update(sizes)
        return ["a.json"]

    unpack(path, "a", into, LIMITS, choose)
    assert seen == {name: len(content) for name, content in members.items()}
    assert [path.name for path in into.iterdir()] == ["a.json"]


@PACKERS
def test_more_than_may_be_unpacked_is_refused_before_a_byte_is_written(tmp_path: Path, pack: Packer) -> None:
    with pytest.raises(TooLarge, match="when unpacked"):
        unpacked(tmp_path, pack({"a.json": b"{}", "b.json": bytes(700_000), "c.json": bytes(700_000)}))
    assert not list((tmp_path / "into").iterdir())


def test_a_zips_directory_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    """Its end may say that millions of entries stand before it."""
    entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
    body = entry * 60_000
    end = b"PK\x05\x06" + bytes(8) + len(body).to_bytes(4, "little") + bytes(4) + bytes(2)
    with pytest.raises(TooLarge, match="directory"):
        unpacked(tmp_path, body + end)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damaged", [False, True])
def test_other_compressions_than_deflate_are_refused(tmp_path: Path, method: int, damaged: bool) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        packed.writestr("a.json", b"{}" * 1000)
    data = bytearray(buffer.getvalue())
    if damaged:
        data[45:60] = b"\xff" * 15
    with pytest.raises(UnsupportedFormat, match="only deflate"):
        unpacked(tmp_path, bytes(data))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_a_tar_are_bounded_all_together(tmp_path: Path, kind: bytes) -> None:
    """Each is kept while the next is read."""
    content = (b"600000 comment=" + b"x" * 599_984 + b"\n") if kind != tarfile.GNUTYPE_LONGNAME else b"x" * 600_000
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, len(content)
    one = info.tobuf() + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    data = gzip.compress(one * 4 + pack_tar({"a.json": b"{}"}))
    with pytest.raises(InvalidRequest, match="headers of more than 1 MiB"):
        unpacked(tmp_path, data, ArchiveLimits(max_files=20, max_bytes=1 << 30))


@PACKERS
@pytest.mark.parametrize(
    ("start", "error"),
    [
        (bytes(8), InvalidRequest),
        ((1 << 40).to_bytes(8, "little") + b"{", InvalidRequest),
        ((17 << 20).to_bytes(8, "little") + b"{", TooLarge),
        (b"\x80\x04\x95", UnsupportedFormat),
        ((2).to_bytes(8, "little") + b"{}", InvalidRequest),
        (b"\x42" + bytes(7) + b'{"a":{"dtype":"U8","shape":[33554358],"data_offsets":[0,33554358]}}', InvalidRequest),
    ],
)
def test_weights_are_checked_by_their_header_before_the_rest_is_unpacked(
    tmp_path: Path, pack: Packer, start: bytes, error: type[Exception]
) -> None:
    path, into = tmp_path / "archive", tmp_path / "into"
    members = {"adapter_config.json": b"{}", "adapter_model.safetensors": start + bytes((32 << 20) - len(start))}
    path.write_bytes(pack(members))
    into.mkdir()
    with pytest.raises(error):
        unpack_adapter(path, "a", into, ArchiveLimits(max_files=20, max_bytes=1 << 30))
    assert sum(file.stat().st_size for file in into.rglob("*") if file.is_file()) <= 2


@PACKERS
def test_of_an_adapters_archive_only_its_files_are_unpacked(tmp_path: Path, pack: Packer) -> None:
    path, into = tmp_path / "archive", tmp_path / "into"
    kept = {"adapter_config.json": b"{}", "adapter_model.safetensors": (2).to_bytes(8, "little") + b"{}"}
    left = {"optimizer.pt": b"x", "README.md": bytes(2 << 20), "checkpoint-1/adapter_model.safetensors": b"x"}
    path.write_bytes(pack(kept | left))
    into.mkdir()
    warnings = unpack_adapter(path, "a", into, ArchiveLimits(max_files=20, max_bytes=1 << 30))
    assert {p.name: p.read_bytes() for p in into.iterdir()} == kept
    assert all(name.split("/")[0] in " ".join(warnings) for name in left)

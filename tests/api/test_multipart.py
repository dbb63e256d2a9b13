"""The reader of uploads' bodies: every bound, and every way to cut a body into pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhats.api import multipart
from manyhats.api.multipart import FormReader, UploadForm
from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat


def part(name: str, content: bytes = b"x", filename: str | None = None, extra: bytes = b"") -> bytes:
    tail = f'; filename="{filename}"' if filename is not None else ""
    return (
        f'--z\r\nContent-Disposition: form-data; name="{name}"{tail}\r\n'.encode() + extra + b"\r\n" + content + b"\r\n"
    )


END = b"--z--\r\n"


def read(tmp_path: Path, body: bytes, step: int = 1 << 20, max_files: int = 3, boundary: str = "z") -> UploadForm:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    reader = FormReader(f"multipart/form-data; boundary={boundary}", folder, tmp_path / "archive", max_files=max_files)
    try:
        for at in range(0, max(len(body), 1), step):
            reader.feed(body[at : at + step])
        return reader.finish()
    finally:
        reader.close()


@pytest.mark.parametrize("first", [1 << 20, 60, 61, 64, 200])
def test_files_and_texts_are_read_however_the_body_is_cut(tmp_path: Path, first: int) -> None:
    content = bytes(range(256)) * 20 + b"\r\n--zz\r\n--y\r\n--"
    body = b"preamble\r\n" + part("files", content, "a.json") + part("files", b"", "b.json") + part("task", b"{}")
    body += part("alias", "ä".encode()) + END + b"epilogue"
    form = read(tmp_path, body, first)
    assert form == UploadForm(("a.json", "b.json"), None, {"task": b"{}", "alias": "ä".encode()})
    assert (tmp_path / "files" / "a.json").read_bytes() == content
    assert (tmp_path / "files" / "b.json").read_bytes() == b""


def test_an_archive_is_read(tmp_path: Path) -> None:
    form = read(tmp_path, part("archive", b"PK", "../x.zip") + END)
    assert form == UploadForm((), "../x.zip", {})
    assert (tmp_path / "archive").read_bytes() == b"PK"


NOT_READ = {
    "empty": (b"", "boundary"),
    "another boundary": (b"--y\r\n\r\n", "boundary"),
    "a long preamble": (b"\r\n" * (40 << 10) + part("files", filename="a") + END, "boundary"),
    "a long epilogue": (part("files", filename="a") + END + b"\r\n" * (80 << 10), "behind the last part"),
    "cut off": (part("files", filename="a"), "too early"),
    "no parts": (END, "send either|cannot be read|too early"),
    "no name": (b'--z\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n' + END, "no part ''"),
    "no disposition": (b"--z\r\nA: b\r\n\r\nx\r\n" + END, "no part ''"),
    "another part": (part("evil") + END, "no part 'evil'"),
    "a text twice": (part("task") + part("task") + END, "twice"),
    "a file without its name": (part("files") + END, "must be a file"),
    "files and an archive": (part("files", filename="a") + part("archive", filename="b") + END, "either"),
    "an archive and files": (part("archive", filename="a") + part("files", filename="b") + END, "either"),
    "two archives": (part("archive", filename="a") + part("archive", filename="b") + END, "either"),
    "two files of a name": (part("files", filename="a") + part("files", filename="a") + END, "two files"),
    "a path": (part("files", filename="a/b") + END, "not allowed"),
    "no header": (b"--z\r\n: \r\n\r\nx\r\n" + END, "cannot be read"),
    "settings alone": (part("task") + END, "send either"),
}


@pytest.mark.parametrize("what", NOT_READ)
def test_what_cannot_be_read_is_refused(tmp_path: Path, what: str) -> None:
    body, message = NOT_READ[what]
    with pytest.raises(InvalidRequest, match=message):
        read(tmp_path, body, 70 << 10)


TOO_MUCH = {
    "files": (b"".join(part("files", filename=f"f{i}") for i in range(100_000)) + END, "more than 3 files"),
    "headers": (part("files", b"x", "a", b"a: b\r\n" * 100_000) + END, "header"),
    "a header": (part("files", b"x", "a", b"a: " + b"b" * 5_000_000 + b"\r\n") + END, "headers|cannot be read"),
    "a header's name": (part("files", b"x", "a", b"b" * 5_000_000 + b": b\r\n") + END, "headers|cannot be read"),
    "boundaries": (part("files", b"\r\n--zX" * 800_000, "a") + END, "more than 3 files, or"),
    "a text": (part("task", b"x" * 5_000_000) + END, "larger than 1048576"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_is_too_much_is_refused_where_the_limit_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    body, message = TOO_MUCH[what]
    read_bytes = 0
    feed = FormReader.feed

    def counted(self: FormReader, data: bytes) -> None:
        nonlocal read_bytes
        read_bytes += len(data)
        feed(self, data)

    monkeypatch.setattr(FormReader, "feed", counted)
    with pytest.raises((TooLarge, InvalidRequest), match=message):
        read(tmp_path, body, 64 << 10)
    assert read_bytes <= multipart._TEXT_BYTES + (128 << 10)


@pytest.mark.parametrize(
    ("first", "error", "message"),
    [
        ((90 << 20).to_bytes(8, "little") + b"{", TooLarge, r"header of a\.safetensors"),
        ((1 << 60).to_bytes(8, "little") + b"{", InvalidRequest, "damaged"),
        (b"\x80\x04\x95" + bytes(20), UnsupportedFormat, "manyhats convert"),
    ],
)
def test_weights_that_cannot_be_are_refused_by_their_first_bytes(
    tmp_path: Path, first: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, part("files", first + bytes(1000), "a.safetensors") + END, 16)
    assert (tmp_path / "files" / "a.safetensors").stat().st_size < 100


@pytest.mark.parametrize("boundary", ["", "a" * 5000])
def test_a_boundary_of_another_length_is_refused(tmp_path: Path, boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="boundary of 1 to 256"):
        read(tmp_path, b"", boundary=boundary)

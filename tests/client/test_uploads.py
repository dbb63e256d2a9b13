"""Folders and archives on their way to the server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import manyhats_client as mc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartParser

from tests.client.driver import KINDS, Driver, Server, driven, error

ANSWER = {
    "task": "spam",
    "version": 1,
    "sha256": "ab" * 32,
    "method": "lora",
    "kind": "classify",
    "rank": 8,
    "matched_tensors": 12,
    "bytes": 70000,
    "aliases": ["stable"],
}
FILES = {
    "adapter_config.json": b'{"r": 8}',
    # Longer than one piece of a stream, and with what could be taken for the end of a part.
    "adapter_model.safetensors": bytes(range(256)) * 300 + b"\r\n--boundary--\r\n",
    "empty.txt": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my adapter"
    path.mkdir()
    for name, data in FILES.items():
        (path / name).write_bytes(data)
    return path


def parts_of(request: httpx.Request) -> list[tuple[str, str | None, Any]]:
    """Name, file name and content of every part, read as the server reads them."""

    async def stream() -> AsyncIterator[bytes]:
        yield request.content

    async def read() -> list[tuple[str, str | None, Any]]:
        form: FormData = await MultiPartParser(Headers(dict(request.headers)), stream()).parse()
        parts = [
            (name, part.filename, await part.read()) if isinstance(part, UploadFile) else (name, None, part)
            for name, part in form.multi_items()
        ]
        await form.close()
        return parts

    return asyncio.run(read())


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        assert all(entry.isreg() for entry in tar)
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def test_a_folder(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [httpx.Response(201, json=ANSWER)]
    upload = client.upload("spam", folder)
    assert server.asked == ("POST", "/v1/tasks/spam/versions")
    assert parts_of(server.requests[0]) == [
        ("alias", None, "stable"),
        ("activate", None, "true"),
        *(("files", name, data) for name, data in FILES.items()),
    ]
    assert int(server.requests[0].headers["content-length"]) == len(server.requests[0].content)
    assert type(upload) is mc.Upload
    assert (upload.version, upload.rank, upload.matched_tensors, upload.aliases) == (1, 8, 12, ["stable"])
    assert upload.new


def test_the_same_bytes_again(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [httpx.Response(200, json=ANSWER | {"aliases": {"stable": 1}, "warnings": ["seen before"]})]
    upload = client.upload("spam", str(folder))
    assert not upload.new
    assert upload.aliases == {"stable": 1}
    assert upload.warnings == ["seen before"]


def test_what_goes_with_the_files(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [httpx.Response(201, json=ANSWER)]
    settings = {"labels": ["nein", "été"], "max_tokens": 64}
    client.upload("a/b", folder, alias="canary", activate=False, settings=settings)
    assert server.asked == ("POST", "/v1/tasks/a%2Fb/versions")
    fields = {name: value for name, filename, value in parts_of(server.requests[0]) if filename is None}
    assert json.loads(fields.pop("task")) == settings
    assert fields == {"alias": "canary", "activate": "false"}


def test_hidden_files_stay_here(client: Driver, server: Server, folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "weights").write_bytes(b"x")
    server.replies = [httpx.Response(201, json=ANSWER)]
    client.upload("spam", folder)
    assert [name for kind, name, _ in parts_of(server.requests[0]) if kind == "files"] == list(FILES)


def test_a_folder_with_subfolders_is_packed(client: Driver, server: Server, folder: Path) -> None:
    (folder / "de" / "deep").mkdir(parents=True)
    (folder / "de" / "deep" / "adapter.safetensors").write_bytes(b"weights")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(b"x")
    server.replies = [httpx.Response(201, json=ANSWER)]
    client.upload("spam", folder)
    client.upload("spam", folder)
    (_, filename, data) = parts_of(server.requests[0])[-1]
    assert [name for name, _, _ in parts_of(server.requests[0])] == ["alias", "activate", "archive"]
    assert filename == "my adapter.tar.gz"
    assert unpacked(data) == FILES | {"de/deep/adapter.safetensors": b"weights"}
    assert parts_of(server.requests[1])[-1][2] == data  # the same folder gives the same bytes
    assert data[4:8] == bytes(4)  # gzip's own time


def test_links_to_files_are_followed_and_links_to_folders_refused(
    client: Driver, server: Server, folder: Path, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"from elsewhere")
    (folder / "linked.safetensors").symlink_to(blob)
    server.replies = [httpx.Response(201, json=ANSWER)]
    client.upload("spam", folder)
    assert ("files", "linked.safetensors", b"from elsewhere") in parts_of(server.requests[0])
    (folder / "loop").symlink_to(folder)
    with pytest.raises(ValueError, match="links are not followed"):
        client.upload("spam", folder)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "A.TGZ", "a.tar"])
def test_an_archive(client: Driver, server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    server.replies = [httpx.Response(201, json=ANSWER)]
    client.upload("spam", tmp_path / name)
    assert parts_of(server.requests[0])[2:] == [("archive", name, b"packed")]


def test_files_by_name(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [httpx.Response(201, json=ANSWER)]
    client.upload("spam", {"one.json": folder / "adapter_config.json", "two.txt": str(folder / "empty.txt")})
    assert parts_of(server.requests[0])[2:] == [
        ("files", "one.json", FILES["adapter_config.json"]),
        ("files", "two.txt", b""),
    ]
    client.upload("spam", {"de/one.json": folder / "adapter_config.json"})
    ((name, filename, data),) = parts_of(server.requests[1])[2:]
    assert (name, filename, unpacked(data)) == (
        "archive",
        "adapter.tar.gz",
        {"de/one.json": FILES["adapter_config.json"]},
    )
    with pytest.raises(ValueError, match="no files to send"):
        client.upload("spam", {})


@pytest.mark.parametrize(("start", "name"), [(b"PK\x03\x04 zip", "adapter.zip"), (b"\x1f\x8b gzip", "adapter.tar.gz")])
@pytest.mark.parametrize("form", ["bytes", "memory", "file", "named file", "pipe"])
def test_an_archive_that_is_open_or_in_memory(
    client: Driver, server: Server, tmp_path: Path, form: str, start: bytes, name: str
) -> None:
    data = start * 30_000
    (tmp_path / "mine.tgz").write_bytes(data)
    (tmp_path / "data").write_bytes(data)
    server.replies = [error(503, headers={"Retry-After": "0"}), httpx.Response(201, json=ANSWER)]
    told: list[tuple[int, int | None]] = []
    with (tmp_path / "data").open("rb") as file, (tmp_path / "mine.tgz").open("rb") as named:
        file.seek(5)
        with pipe(data) as end:
            sources = {"bytes": data, "memory": io.BytesIO(data), "file": file, "named file": named, "pipe": end}
            client.upload("spam", sources[form], progress=lambda *now: told.append(now))
    expected = "mine.tgz" if form == "named file" else name
    for request in server.requests:  # it was refused, and sent again whole
        assert parts_of(request)[2:] == [("archive", expected, data)]
    total = len(server.requests[0].content)
    assert [one for one in told if one[0] == 0] == [(0, total)] * 2
    assert told[-1] == (total, total)
    assert len(told) > 6  # by chunks


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("hf://org/spam", {"hub": "org/spam"}),
        ("hf://org/spam@v1", {"hub": "org/spam", "revision": "v1"}),
        ("s3://bucket/a/b", {"s3": "s3://bucket/a/b"}),
        ("file:///adapters/spam", {"folder": "/adapters/spam"}),
    ],
)
def test_what_the_server_is_to_fetch(client: Driver, server: Server, address: str, source: dict[str, str]) -> None:
    origin = {"kind": "hub", "id": "org/spam", "revision": "main", "commit": "0" * 40, "files": []}
    server.replies = [httpx.Response(201, json=ANSWER | {"source": origin})]
    made = client.upload_from("spam", address)
    assert json.loads(server.requests[0].content) == {"source": source, "alias": "stable", "activate": True}
    assert made.new
    assert made.source == mc.Origin(**origin)
    client.upload_from("spam", source, alias="canary", activate=False, sha256="ab", settings={"priority": 1})
    given = {"alias": "canary", "activate": False, "sha256": "ab", "task": {"priority": 1}}
    assert json.loads(server.requests[1].content) == {"source": source} | given
    rows = [{"text": "a", "label": "b"}]
    client.upload_from("spam", source, examples=rows, max_drop=0.1)
    body = json.loads(server.requests[2].content)
    assert (body["examples"], body["gate"]) == (rows, {"max_drop": 0.1})
    with pytest.raises(ValueError, match="need labelled examples"):
        client.upload_from("spam", source, metric="f1")
    for wrong in ("", "spam", "http://host/x", "hf://", "s3://", "file://relative"):
        with pytest.raises(ValueError, match="is no source"):
            client.upload_from("spam", wrong)


@contextmanager
def pipe(data: bytes) -> Iterator[BinaryIO]:
    """A pipe's end that gives `data`."""
    end, begin = os.pipe()

    def write() -> None:
        with os.fdopen(begin, "wb") as file, suppress(BrokenPipeError):
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(end, "rb") as file:
        yield file
    thread.join()


def test_files_by_name_may_be_in_memory(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [httpx.Response(201, json=ANSWER)]
    files = {"a": b"bytes", "b": io.BytesIO(b"open"), "c": folder / "adapter_config.json"}
    client.upload("spam", files)
    contents = [b"bytes", b"open", FILES["adapter_config.json"]]
    assert parts_of(server.requests[0])[2:] == [
        ("files", name, data) for name, data in zip(files, contents, strict=True)
    ]
    client.upload("spam", {f"de/{name}": source for name, source in files.items()})
    ((_, _, packed),) = parts_of(server.requests[1])[2:]
    assert list(unpacked(packed).values()) == contents


@pytest.mark.parametrize(
    ("given", "message"),
    [(b"neither", "bytes and open files are an archive"), (io.StringIO("text"), "opened in binary mode")],
)
def test_what_is_in_memory_and_no_archive(client: Driver, server: Server, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        client.upload("spam", given)
    assert server.requests == []


def test_nothing_is_sent_of_what_cannot_be(client: Driver, server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no"):
        client.upload("spam", tmp_path / "missing")
    with pytest.raises(ValueError, match="has no files"):
        client.upload("spam", tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="neither a folder nor an archive"):
        client.upload("spam", tmp_path / "adapter_model.safetensors")
    assert server.requests == []


@pytest.mark.parametrize("nested", [False, True])
def test_an_upload_that_was_refused_is_sent_again_whole(
    client: Driver, server: Server, folder: Path, nested: bool
) -> None:
    if nested:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"x")
    server.replies = [error(429, headers={"Retry-After": "1"}), error(503), httpx.Response(201, json=ANSWER)]
    client.upload("spam", folder)
    first, *again = (parts_of(request) for request in server.requests)
    assert again == [first, first]


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.WriteError("reset"), httpx.ReadTimeout("slow")])
def test_an_upload_that_broke_is_not_sent_again(
    client: Driver, server: Server, folder: Path, failure: Exception
) -> None:
    server.replies = [failure]
    with pytest.raises((mc.ConnectionFailed, mc.Timeout)):
        client.upload("spam", folder)
    assert len(server.requests) == 1


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")
def test_files_are_closed(client: Driver, server: Server, folder: Path) -> None:
    server.replies = [error(422, "does not fit")]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(mc.UnprocessableAdapter):
            client.upload("spam", folder)
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # an event loop has its own


@given(names=st.lists(st.text("abc é'\"%;", min_size=1).filter(lambda n: n.strip() == n), min_size=1, unique=True))
def test_any_file_name(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("named")
    for name in names:
        (folder / name).write_bytes(name.encode())
    for kind in KINDS:
        server = Server([httpx.Response(201, json=ANSWER)])
        with driven(kind, server) as client:
            client.upload("spam", folder)
        sent = [data for part, _, data in parts_of(server.requests[0]) if part == "files"]
        assert sent == [name.encode() for name in sorted(names)]

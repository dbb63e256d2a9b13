"""Adapter files out: `GET /v1/tasks/{task}/versions/{number}/download`."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

from anyio import CancelScope
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from manyhats.api.auth import require_read
from manyhats.api.state import runtime_of
from manyhats.registry.records import Version
from manyhats.runtime import Runtime
from manyhats.serving.threads import in_thread

read_router = APIRouter(prefix="/v1/tasks", tags=["versions"], dependencies=[Depends(require_read)])

_CHUNK = 1 << 20  # bytes
_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}
}


class _Archive(StreamingResponse):
    """A tar.gz."""

    media_type = "application/gzip"


class _Download(_Archive):
    """Keeps the version's files while they are sent. A client may leave before the first byte is asked for."""

    def __init__(self, runtime: Runtime, version: Version, folder: Path) -> None:
        headers = {"Content-Disposition": f'attachment; filename="{version.task}-{version.number}.tar.gz"'}
        self._chunks = packed(folder)
        super().__init__(self._content(), headers=headers)
        self._runtime = runtime
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._chunks.close()  # and with it the file that was being read
            await _unpin(self._runtime, self._version)

    async def _content(self) -> AsyncIterator[bytes]:
        while chunk := await in_thread(self._runtime.threads.receiving, next, self._chunks, b""):
            yield chunk


@read_router.get("/{task}/versions/{number}/download", response_class=_Archive, responses=_ARCHIVE)
async def download(task: str, number: int, request: Request) -> StreamingResponse:
    """A version's files, as they were uploaded, in a tar.gz."""
    runtime = runtime_of(request)
    version = runtime.registry.pin(f"{task}@{number}")
    try:  # every file is read and compared with the version's sha256 before the first byte is sent
        folder = await in_thread(runtime.threads.receiving, runtime.registry.files, version)
    except BaseException:
        await _unpin(runtime, version)
        raise
    return _Download(runtime, version, folder)


async def _unpin(runtime: Runtime, version: Version) -> None:
    with CancelScope(shield=True):  # the last one removes the files of what was deleted meanwhile
        await in_thread(runtime.threads.receiving, runtime.registry.unpin, version)


def packed(folder: Path) -> Generator[bytes]:
    """A folder's files as a tar.gz, in chunks that are no larger than what is read at a time."""
    buffer = _WriteBuffer()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as out:
        for path in sorted(folder.rglob("*")):
            info = _header(path, path.relative_to(folder).as_posix())
            out.write(info.tobuf(tarfile.PAX_FORMAT))
            if info.isdir():
                continue
            left = info.size
            with path.open("rb") as file:
                while left and (chunk := file.read(min(_CHUNK, left))):
                    left -= len(chunk)
                    out.write(chunk)
                    if chunk := buffer.drain():
                        yield chunk
            if left:
                raise OSError(
                    f"{path.name} is shorter than it was"
                )  # the client sees a broken archive, not a complete one
            out.write(bytes(-info.size % tarfile.BLOCKSIZE))
        out.write(bytes(2 * tarfile.BLOCKSIZE))
    yield buffer.drain()


def _header(path: Path, name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    found = path.stat()
    info.mode, info.mtime = found.st_mode & 0o7777, int(found.st_mtime)
    if path.is_dir():
        info.type = tarfile.DIRTYPE
    else:
        info.size = found.st_size
    return info


class _WriteBuffer(io.RawIOBase):
    """A file whose bytes are read as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def drain(self) -> bytes:
        """What was written since the last call."""
        data, self._chunks = b"".join(self._chunks), []
        return data

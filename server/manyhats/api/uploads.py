"""Adapter files in and out: `POST /v1/tasks/{task}/versions` and `.../download`."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from manyhats.api.auth import may_ask, may_change
from manyhats.api.state import runtime_of
from manyhats.api.tasks import aliases_body
from manyhats.errors import InvalidRequest
from manyhats.registry.archive import ArchiveLimits, unpack
from manyhats.registry.blobs import full_disk_told
from manyhats.registry.names import check_alias, check_name
from manyhats.registry.records import TaskSettings, Version
from manyhats.runtime import Runtime

ask = APIRouter(prefix="/v1/tasks", tags=["versions"], dependencies=[Depends(may_ask)])
change = APIRouter(prefix="/v1/tasks", tags=["versions"], dependencies=[Depends(may_change)])

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ ,+=-]{0,199}")
_FORM_FIELD_LIMIT = 1 << 20  # bytes of a part that is no file
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "archive": {"type": "string", "format": "binary", "description": "zip or tar.gz"},
                        "task": {"type": "string", "description": "JSON of the task's settings"},
                        "alias": {"type": "string", "default": "stable"},
                        "activate": {"type": "boolean", "default": True},
                    },
                }
            }
        },
    }
}


class _Upload(NamedTuple):
    files: list[UploadFile]
    archive: UploadFile | None
    settings: TaskSettings | None
    alias: str
    activate: bool


@change.post("/{task}/versions", status_code=201, openapi_extra=_BODY)
async def upload(task: str, request: Request) -> JSONResponse:
    """Uploads an adapter as a new version: parts named `files`, or one `archive`."""
    check_name(task, write=True)
    runtime = runtime_of(request)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("send the adapter as multipart/form-data, with parts named 'files' or one 'archive'")
    try:
        with full_disk_told():  # large parts wait in temporary files
            form = await request.form(
                max_files=runtime.settings.max_files, max_fields=16, max_part_size=_FORM_FIELD_LIMIT
            )
    except MultiPartException as error:
        raise InvalidRequest(f"the multipart body cannot be read: {error.message}") from None
    try:
        parts = _parts(form)
        version, created, warnings = await to_thread.run_sync(_store, runtime, task, parts)
    finally:
        await form.close()
    body: dict[str, Any] = {
        "task": task,
        "version": version.number,
        "sha256": version.sha256,
        "method": version.info.method,
        "kind": runtime.registry.task(task).settings_for(version).kind,
        "rank": version.info.rank,
        "matched_tensors": version.info.matched_tensors,
        "bytes": version.info.bytes,
        "aliases": aliases_body(runtime.registry.task(task)),
    }
    if warnings:
        body["warnings"] = list(warnings)
    location = f"/v1/tasks/{task}/versions/{version.number}"
    return JSONResponse(body, 201 if created else 200, {"Location": location})


def _parts(form: FormData) -> _Upload:
    known = {"files", "archive", "task", "alias", "activate"}
    for name in form:
        if name not in known:
            raise InvalidRequest(f"there is no part '{name}'; there are {', '.join(sorted(known))}", param=name)
    files = form.getlist("files")
    archives = form.getlist("archive")
    for name, part in [("files", f) for f in files] + [("archive", a) for a in archives]:
        if not isinstance(part, UploadFile):
            raise InvalidRequest(f"the part '{name}' must be a file, with a filename", param=name)
    if bool(files) == bool(archives) or len(archives) > 1:
        raise InvalidRequest("send either parts named 'files' or one 'archive'", param="files")
    settings = None
    if (told := form.get("task")) is not None:
        try:
            settings = TaskSettings.model_validate(json.loads(told if isinstance(told, str) else ""))
        except (ValueError, RecursionError) as error:
            first = str(error).splitlines()[0] if not hasattr(error, "errors") else error.errors()[0]
            reason = first if isinstance(first, str) else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InvalidRequest(
                f"the part 'task' is not the JSON of a task's settings: {reason}", param="task"
            ) from None
    alias = str(form.get("alias", "stable"))
    check_alias(alias)
    activate = str(form.get("activate", "true")).lower()
    if activate not in (*_TRUE, *_FALSE):
        raise InvalidRequest(f"'activate' must be true or false, not '{activate}'", param="activate")
    return _Upload(
        [f for f in files if isinstance(f, UploadFile)],
        next((a for a in archives if isinstance(a, UploadFile)), None),
        settings,
        alias,
        activate in _TRUE,
    )


def _store(runtime: Runtime, task: str, parts: _Upload) -> tuple[Version, bool, tuple[str, ...]]:
    """Blocking: puts the files into staging, checks them, and makes the version."""
    settings = runtime.settings
    with runtime.registry.stage() as folder:
        if parts.archive is not None:
            with runtime.registry.stage() as packed:
                path = packed / "archive"
                _save(parts.archive, path)
                limits = ArchiveLimits(max_files=settings.max_files, max_bytes=settings.max_unpacked)
                unpack(path, parts.archive.filename or "archive", folder, limits)
        for part in parts.files:
            name = part.filename or ""
            if not _FILE_NAME.fullmatch(name):
                raise InvalidRequest(
                    f"the file name {name[:100]!r} is not allowed; send plain names, and folders as an archive",
                    param="files",
                )
            if (folder / name).exists():
                raise InvalidRequest(f"two files are called '{name}'", param="files")
            _save(part, folder / name)
        version, created = runtime.registry.add_version(
            task, folder, alias=parts.alias, activate=parts.activate, settings=parts.settings
        )
    return version, created, version.info.warnings


def _save(part: UploadFile, path: Path) -> None:
    with path.open("xb") as out:
        shutil.copyfileobj(part.file, out, 1 << 20)


@ask.get("/{task}/versions/{number}/download")
async def download(task: str, number: int, request: Request) -> StreamingResponse:
    """A version's files, as they were uploaded, in a tar.gz."""
    runtime = runtime_of(request)
    version = runtime.registry.pin(f"{task}@{number}")
    headers = {"Content-Disposition": f'attachment; filename="{version.task}-{version.number}.tar.gz"'}
    return StreamingResponse(_packed(runtime, version), media_type="application/gzip", headers=headers)


def _packed(runtime: Runtime, version: Version) -> Iterator[bytes]:
    """Yields the archive file by file, so that it is never in memory whole; unpins at the end."""
    try:
        buffer = _Drain()
        folder = runtime.registry.files(version)
        packed = gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0)
        with packed, tarfile.open(fileobj=packed, mode="w|") as tar:
            for path in sorted(folder.rglob("*")):
                tar.add(path, str(path.relative_to(folder)), recursive=False)
                yield buffer.taken()
        yield buffer.taken()
    finally:
        runtime.registry.unpin(version)


class _Drain(io.RawIOBase):
    """A file that gives away what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last call."""
        data, self._pieces = b"".join(self._pieces), []
        return data

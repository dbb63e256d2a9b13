"""A version's files from a source that the caller names: `POST /v1/tasks/{task}/versions` with a JSON body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Request
from pydantic import ConfigDict, Field, StrictBool, StrictStr
from pydantic_core import to_json

from manyhats.api.body import parse
from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.api.schemas import Body, GateBody, Many, SettingsBody
from manyhats.core.call import CURRENT_CALL
from manyhats.errors import InvalidRequest
from manyhats.registry.blobs import storage_full
from manyhats.registry.sources.allowed import is_repository
from manyhats.registry.sources.base import Deadline, Source
from manyhats.registry.sources.fetch import Fetched, FetchLimits, check_digest, copy_folder, fetch
from manyhats.registry.sources.hub import MAIN, HubSource
from manyhats.registry.sources.s3 import S3Source
from manyhats.runtime import Runtime
from manyhats.serving.evaluation import read_records
from manyhats.serving.threads import in_thread

_HUB = "hf://"
_Name = Annotated[StrictStr, Field(min_length=1, max_length=4096)]


class SourceBody(Body):
    """Where the files come from: a hub's repository at a `revision` (a commit, a tag or a branch, `main` where it is
    left out), a prefix of an object store, or a folder of the server's machine. One of the three."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hub": "my-org/spam", "revision": "v1"}]})

    hub: _Name | None = None
    revision: _Name | None = None
    s3: _Name | None = None
    folder: _Name | None = None


class FromSourceBody(Body):
    """An upload whose files the server fetches itself. `sha256`: of the adapter, which a version of the same files has
    elsewhere; where it differs, nothing is made. The rest as the parts of an upload, `examples` as rows."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": {"hub": "my-org/spam", "revision": "v1"}, "alias": "canary"},
                {"source": {"s3": "s3://adapters/spam/7"}, "task": {"labels": ["ham", "spam"]}},
            ]
        }
    )

    source: SourceBody
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9A-Fa-f]{64}$")] | None = None
    task: SettingsBody | None = None
    alias: StrictStr = "stable"
    activate: StrictBool = True
    examples: Many[dict[str, Any]] | None = None
    gate: GateBody | None = None


def named_source(word: str) -> SourceBody:
    """A source in one word: `s3://bucket/prefix`, a hub's `owner/name` or `hf://owner/name@revision`; else a folder."""
    if word.startswith("s3://"):
        return SourceBody.model_construct(s3=word)
    name, _, revision = word.removeprefix(_HUB).partition("@")
    if word.startswith(_HUB) or is_repository(name):
        return SourceBody.model_construct(hub=name, revision=revision or None)
    return SourceBody.model_construct(folder=word)


async def parse_source(request: Request) -> FromSourceBody:
    """The body. Raises what `parse` raises."""
    try:
        return await parse(request, FromSourceBody)
    except InvalidRequest as error:
        if error.param == "source":
            error.message += "; it says where the files come from. Files themselves are sent as multipart/form-data"
        raise


def records_of(body: FromSourceBody) -> list[dict[str, Any]] | None:
    """The labelled examples, with the checks of an upload's. Raises what `read_records` raises."""
    if body.examples is None:
        if body.gate is not None:
            raise InvalidRequest("a 'gate' needs labelled 'examples', which are not there", param="gate")
        return None
    return read_records(b"\n".join(map(to_json, body.examples)))


async def fetched(request: Request, runtime: Runtime, body: FromSourceBody, files: Path) -> Fetched:
    """Brings the files that a body names into the empty folder `files`, in a thread, and checks their digest.

    One download of a caller at a time. Ends early where the caller disconnects. Raises Overloaded, and what `fetch`
    and `copy_folder` raise.
    """
    deadline = Deadline(runtime.settings.source_timeout)
    bring = _work(runtime, body.source, files, deadline)

    def work() -> Fetched:
        with storage_full():
            found = bring()
            if body.sha256 is not None:
                check_digest(files, body.sha256)
            return found

    call = CURRENT_CALL.get()
    with runtime.fetches.admitted(f"{call.caller.tenant}/{call.caller.key or call.client}"):
        return await cancel_on_disconnect(request, _stopping(runtime, deadline, work))


async def _stopping(runtime: Runtime, deadline: Deadline, work: Callable[[], Fetched]) -> Fetched:
    """What `work` gives, from a thread; cancelled, it has the thread end at its next chunk, and waits for that."""
    running = asyncio.ensure_future(in_thread(runtime.threads.fetching, work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        deadline.stop()
        await asyncio.wait([running])
        running.exception()  # it is nobody's any more
        raise


def _work(runtime: Runtime, named: SourceBody, files: Path, deadline: Deadline) -> Callable[[], Fetched]:
    """What brings the files. Raises InvalidRequest for no source, or several, and what the sources raise at once."""
    settings = runtime.settings
    limits = FetchLimits(max_files=settings.max_files, max_bytes=settings.max_upload)
    given = [name for name in ("hub", "s3", "folder") if getattr(named, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"a source is one of 'hub', 's3' and 'folder', not {' and '.join(given) or 'none of them'}", param="source"
        )
    if named.revision is not None and named.hub is None:
        raise InvalidRequest(f"a 'revision' is a hub's; '{given[0]}' has none", param="source.revision")
    if named.folder is not None:
        folder, own = named.folder, runtime.registry.own_folder
        return lambda: copy_folder(folder, settings.adapter_folders, own, files, limits)
    source: Source
    if named.hub is not None:
        source = HubSource(named.hub, named.revision or MAIN, settings.allowed_sources, settings.hub_hosts)
    else:
        source = S3Source(named.s3 or "", settings.allowed_sources)
    return lambda: fetch(source, files, limits, deadline)

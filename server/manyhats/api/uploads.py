"""Adapter files in: `POST /v1/tasks/{task}/versions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from anyio import CancelScope
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from manyhats.api.answers import UploadedBody
from manyhats.api.auth import require_upload
from manyhats.api.body import documented, parse_bytes
from manyhats.api.middleware.content import says_json
from manyhats.api.multipart import FormReader, UploadForm
from manyhats.api.schemas import GateBody, SettingsBody
from manyhats.api.sources import FromSourceBody, fetched, parse_source, records_of
from manyhats.api.state import runtime_of
from manyhats.api.views import evaluation_body, uploaded_body
from manyhats.errors import InvalidRequest, ManyhatsError, Overloaded
from manyhats.registry.archive import ArchiveLimits, unpack_adapter
from manyhats.registry.blobs import storage_full
from manyhats.registry.names import check_alias, check_name
from manyhats.registry.records import AdapterInfo, Version
from manyhats.registry.sources.fetch import Fetched
from manyhats.registry.visibility import check_may_write
from manyhats.runtime import Runtime
from manyhats.serving.evaluation import Gate, LabelledExamples, labelled_examples, read_records, settings_after
from manyhats.serving.threads import in_thread

router = APIRouter(prefix="/v1/tasks", tags=["versions"], dependencies=[Depends(require_upload)])

_CHUNK = 256 << 10  # bytes that a thread writes at a time
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
                        "examples": {
                            "type": "string",
                            "description": "labelled examples as JSON lines: the version is activated only if it is "
                            "no worse on them than the stable one",
                        },
                        "gate": {"type": "string", "description": "JSON: max_drop, metric"},
                    },
                    "examples": [{"task": '{"labels": ["ham", "spam"]}', "alias": "canary", "activate": True}],
                }
            },
            **documented(FromSourceBody)["requestBody"]["content"],
        },
    }
}

_ALREADY_THERE: dict[int | str, dict[str, Any]] = {
    200: {"model": UploadedBody, "description": "The same files were there: the version that has them."}
}


class _Upload(NamedTuple):
    archive: str | None  # its name
    settings: dict[str, Any] | None
    alias: str
    activate: bool
    records: list[dict[str, Any]] | None  # labelled examples
    gate: Gate
    fetched: Fetched | None = None  # where the server has brought the files itself


class _Stored(NamedTuple):
    version: Version
    created: bool
    labelled: LabelledExamples | None


@router.post(
    "/{task}/versions", status_code=201, openapi_extra=_BODY, response_model=UploadedBody, responses=_ALREADY_THERE
)
async def upload(task: str, request: Request) -> JSONResponse:
    """Uploads an adapter as a new version: parts named `files`, or one `archive`; or, as JSON, the name of a source
    that the server fetches it from.

    With labelled `examples` it is evaluated first, and activated only where it is no worse than the stable version.
    """
    check_name(task, write=True)
    check_may_write(task)
    runtime = runtime_of(request)
    body = await parse_source(request) if says_json(request.scope) else None
    with admitted(runtime):
        async with staged(runtime) as folder:
            if body is None:
                form = await _received(request, runtime, folder)
            else:
                form = await _from_source(request, runtime, body, folder / "files")
            stored = await in_thread(runtime.threads.checking, _store, runtime, task, form, folder)
        version = stored.version
        judged: dict[str, Any] = {}
        if stored.labelled is not None:
            evaluated = await _evaluated(runtime, version, stored.labelled, form)
            assert evaluated.evaluation is not None
            judged = {"activated": evaluated.evaluation.activated} | evaluation_body(evaluated)
    location = f"/v1/tasks/{task}/versions/{version.number}"
    return JSONResponse(
        uploaded_body(runtime, version) | judged, 201 if stored.created else 200, {"Location": location}
    )


async def _evaluated(runtime: Runtime, version: Version, labelled: LabelledExamples, form: _Upload) -> Version:
    """The version with its evaluation, which is kept, and after which its alias points at it or not."""
    evaluation = await runtime.evaluator.evaluate(
        version, labelled, form.gate, alias=form.alias, activate=form.activate
    )
    return await in_thread(runtime.threads.admin, runtime.registry.record_evaluation, version, evaluation)


@contextmanager
def admitted(runtime: Runtime) -> Iterator[None]:
    """Counts an upload among those under way. Raises Overloaded where there are too many."""
    if runtime.uploads >= runtime.settings.max_uploads:
        raise Overloaded(f"{runtime.uploads} uploads are under way, which is the most; send it again", retry_after=5)
    runtime.uploads += 1
    try:
        yield
    finally:
        runtime.uploads -= 1


@asynccontextmanager
async def staged(runtime: Runtime) -> AsyncIterator[Path]:
    """A folder for what an upload sends; it is removed beside the event loop, whatever becomes of the upload."""
    stack = ExitStack()

    def make() -> Path:
        with storage_full():
            folder = stack.enter_context(runtime.registry.stage())
            (folder / "files").mkdir()
            return folder

    try:
        yield await in_thread(runtime.threads.receiving, make)
    finally:
        with CancelScope(shield=True):
            await in_thread(runtime.threads.receiving, stack.close)


async def _from_source(request: Request, runtime: Runtime, body: FromSourceBody, files: Path) -> _Upload:
    """Brings the files that a source has. Raises what `fetched` raises."""
    check_alias(body.alias)
    settings = None if body.task is None else body.task.model_dump(exclude_unset=True)
    gate = Gate() if body.gate is None else Gate(float(body.gate.max_drop), body.gate.metric)
    records = records_of(body)
    found = await fetched(request, runtime, body, files)
    return _Upload(None, settings, body.alias, body.activate, records, gate, found)


async def _received(request: Request, runtime: Runtime, folder: Path) -> _Upload:
    """Writes the files that come, and reads the other parts. Raises InvalidRequest or TooLarge."""
    files, archive = folder / "files", folder / "archive"
    receiving = runtime.threads.receiving
    content_type = request.headers.get("content-type", "")
    reader = FormReader(content_type, files, archive, max_files=runtime.settings.max_files)

    def feed(data: bytes) -> None:
        with storage_full():
            reader.feed(data)

    try:
        buffer = bytearray()
        async for chunk in request.stream():
            buffer += chunk
            if len(buffer) >= _CHUNK:
                data, buffer = bytes(buffer), bytearray()
                await in_thread(receiving, feed, data)
        await in_thread(receiving, feed, bytes(buffer))
        form = reader.finish()
        return await in_thread(receiving, _parts, form, runtime.settings.max_values)
    finally:
        reader.close()


def _parts(form: UploadForm, max_values: int) -> _Upload:
    texts = form.texts
    alias = _text(texts, "alias", "stable")
    check_alias(alias)
    activate = _text(texts, "activate", "true").lower()
    if activate not in (*_TRUE, *_FALSE):
        raise InvalidRequest(f"'activate' must be true or false, not '{activate[:100]}'", param="activate")
    settings = None
    if (given := texts.get("task")) is not None:
        try:
            settings = parse_bytes(given, SettingsBody, max_values).model_dump(exclude_unset=True)
        except ManyhatsError as error:
            raise type(error)(f"the part 'task': {error.message}", param=error.param) from None
    records = read_records(texts["examples"]) if "examples" in texts else None
    return _Upload(form.archive, settings, alias, activate in _TRUE, records, _gate(texts, max_values))


def _gate(texts: Mapping[str, bytes], max_values: int) -> Gate:
    if "gate" not in texts:
        return Gate()
    if "examples" not in texts:
        raise InvalidRequest("a 'gate' needs labelled 'examples', which are not there", param="gate")
    try:
        body = parse_bytes(texts["gate"], GateBody, max_values)
    except ManyhatsError as error:
        raise type(error)(f"the part 'gate': {error.message}", param=error.param) from None
    return Gate(float(body.max_drop), body.metric)


def _text(texts: Mapping[str, bytes], name: str, default: str) -> str:
    try:
        return texts[name].decode() if name in texts else default
    except UnicodeDecodeError:
        raise InvalidRequest(f"the part '{name}' is no text", param=name) from None


def _store(runtime: Runtime, task: str, parts: _Upload, folder: Path) -> _Stored:
    """Blocking: unpacks an archive, checks the files and the examples, and makes the version.

    One that is to be evaluated is not activated yet.
    """
    files = folder / "files"
    source = parts.fetched
    warnings = () if source is None else source.warnings
    labelled: LabelledExamples | None = None

    def check(info: AdapterInfo) -> None:
        nonlocal labelled
        if parts.records is not None:
            settings = settings_after(runtime.registry.find(task), parts.settings or {}, info)
            labelled = labelled_examples(parts.records, settings, info, parts.gate, runtime.backbone)

    with storage_full():
        if parts.archive is not None:
            limits = ArchiveLimits(max_files=runtime.settings.max_files, max_bytes=runtime.settings.max_unpacked)
            warnings = unpack_adapter(folder / "archive", parts.archive, files, limits)
            (folder / "archive").unlink()
        version, created = runtime.add_version(
            task,
            files,
            alias=parts.alias,
            activate=parts.activate and parts.records is None,
            settings=parts.settings,
            warnings=warnings,
            check=check,
            origin=None if source is None else source.origin,
        )
    return _Stored(version, created, labelled)

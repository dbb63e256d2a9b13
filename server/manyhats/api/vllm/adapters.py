"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: adapters of any method, from allowed folders and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr

from manyhats.api.auth import require_admin, require_upload
from manyhats.api.body import documented, parse
from manyhats.api.errors import describe
from manyhats.api.shaped_route import shaped_route
from manyhats.api.sources import FromSourceBody, fetched, named_source
from manyhats.api.state import runtime_of
from manyhats.api.uploads import admitted, staged
from manyhats.errors import InvalidRequest, ManyhatsError, NotFound
from manyhats.registry.blobs import storage_full
from manyhats.registry.names import STABLE, check_name, check_not_base
from manyhats.registry.sources.fetch import Fetched
from manyhats.registry.visibility import check_may_write, sees
from manyhats.runtime import Runtime
from manyhats.serving.threads import in_thread


def _shape(error: Exception) -> tuple[int, dict[str, Any]]:
    """What vLLM says of a wrong body."""
    status, body = describe(error)
    if isinstance(error, InvalidRequest):
        body["error"]["type"] = "InvalidUserInput"
    return status, body


router = APIRouter(prefix="/v1", tags=["vllm"], route_class=shaped_route(_shape))


class LoadBody(BaseModel):
    """`POST /v1/load_lora_adapter`. `lora_path`: a folder on the server's machine, `owner/name` of a hub (as
    `hf://owner/name@revision` too), or `s3://bucket/prefix`. `load_inplace`: whether a task that is there gets a new
    version."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"lora_name": "spam", "lora_path": "/adapters/spam"}]}
    )

    lora_name: StrictStr | None = None
    lora_path: StrictStr | None = None
    load_inplace: StrictBool | None = None


class UnloadBody(BaseModel):
    """`POST /v1/unload_lora_adapter`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"lora_name": "spam"}]})

    lora_name: StrictStr | None = None


def _text(done: str) -> dict[int | str, dict[str, Any]]:
    example = f"Success: LoRA adapter 'spam' {done} successfully."
    return {200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": example}}}}


@router.post(
    "/load_lora_adapter",
    dependencies=[Depends(require_upload)],
    openapi_extra=documented(LoadBody),
    response_class=PlainTextResponse,
    responses=_text("added"),
)
async def load_lora_adapter(request: Request) -> Response:
    """Makes a version of the adapter in a folder on the server's machine, or of another source that is allowed,
    checked as an upload is."""
    body = await parse(request, LoadBody)
    name, path = body.lora_name, body.lora_path
    if not name or not path:
        raise InvalidRequest(
            "Both 'lora_name' and 'lora_path' must be provided.", param="lora_path" if name else "lora_name"
        )
    if (body.model_extra or {}).get("is_3d_lora_weight"):
        raise InvalidRequest("'is_3d_lora_weight' is not supported; leave it out", param="is_3d_lora_weight")
    runtime = runtime_of(request)
    check_name(name, write=True)
    check_may_write(name)
    if runtime.registry.find(name) is not None and not body.load_inplace:
        raise InvalidRequest(
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            "'load_inplace' to True.",
            param="lora_name",
        )
    with admitted(runtime):
        async with staged(runtime) as folder:
            found = await _fetched(request, runtime, path, folder / "files")
            await in_thread(runtime.threads.checking, _store, runtime, name, found, folder / "files")
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


async def _fetched(request: Request, runtime: Runtime, path: str, files: Path) -> Fetched:
    """Brings what the path names. Raises what `fetched` raises, of the field that it came in."""
    try:
        return await fetched(request, runtime, FromSourceBody(source=named_source(path)), files)
    except ManyhatsError as error:
        if (error.param or "").startswith("source"):
            error.param = "lora_path"
        raise


def _store(runtime: Runtime, name: str, found: Fetched, files: Path) -> None:
    """Blocking: checks the files, and makes the version."""
    with storage_full():
        runtime.add_version(
            name, files, alias=STABLE, activate=True, settings=None, warnings=found.warnings, origin=found.origin
        )


@router.post(
    "/unload_lora_adapter",
    dependencies=[Depends(require_admin)],
    openapi_extra=documented(UnloadBody),
    response_class=PlainTextResponse,
    responses=_text("removed"),
)
async def unload_lora_adapter(request: Request) -> Response:
    """Takes a task away, as DELETE /v1/tasks/{task} does."""
    body = await parse(request, UnloadBody)
    name = body.lora_name
    if not name:
        raise InvalidRequest("'lora_name' needs to be provided to unload a LoRA adapter.", param="lora_name")
    check_name(name)
    check_not_base(name)
    runtime = runtime_of(request)
    if not sees(name) or runtime.registry.find(name) is None:
        raise NotFound(f"The lora adapter '{name}' cannot be found.", param="lora_name")
    await in_thread(runtime.threads.admin, runtime.registry.delete_task, name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

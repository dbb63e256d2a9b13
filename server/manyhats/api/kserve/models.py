"""`/v2`: the server, its models, and what they answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict

from manyhats._version import __version__
from manyhats.api.auth import require_predict, require_read
from manyhats.api.body import documented
from manyhats.api.kserve.errors import ERRORS, error_body
from manyhats.api.kserve.infer import InferBody, Inferred, infer
from manyhats.api.model_names import task_of
from manyhats.api.relevance import kind_of
from manyhats.api.schemas import AnswerBody
from manyhats.api.shaped_route import shaped_route
from manyhats.api.state import runtime_of
from manyhats.core.kinds.base import FieldType
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.registry.names import BASE
from manyhats.registry.visibility import check_base
from manyhats.runtime import Runtime

open_router = APIRouter(prefix="/v2", tags=["kserve"], responses=ERRORS)
router = APIRouter(
    prefix="/v2",
    tags=["kserve"],
    dependencies=[Depends(require_read)],
    route_class=shaped_route(error_body),
    responses=ERRORS,
)

infer_router = APIRouter(
    prefix="/v2",
    tags=["kserve"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=ERRORS,
)

# What a field of the answers is as a tensor; the first dimension is that of the inputs.
_TENSORS: dict[FieldType, tuple[str, list[int]]] = {
    "text": ("BYTES", [-1]),
    "integer": ("INT64", [-1]),
    "number": ("FP32", [-1]),
    "numbers": ("FP32", [-1, -1]),
    "json": ("BYTES", [-1]),
}


class Live(AnswerBody):
    """Whether the process lives."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"live": True}]})

    live: bool


class Ready(AnswerBody):
    """Whether the server can answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ready": True}]})

    ready: bool


class ServerMetadata(AnswerBody):
    """The server."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "manyhats", "version": __version__, "extensions": ["binary_tensor_data"]}]
        }
    )

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(AnswerBody):
    """A tensor; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(AnswerBody):
    """A task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "spam",
                    "versions": ["1", "2"],
                    "platform": "manyhats_classify",
                    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                    "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1]}],
                }
            ]
        }
    )

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(AnswerBody):
    """Whether a task can answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "spam", "ready": True}]})

    name: str
    ready: bool


@open_router.get("/health/live")
async def live() -> Live:
    """The process lives."""
    return Live(live=True)


@open_router.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
async def ready(request: Request) -> Response:
    """It can answer now."""
    can = runtime_of(request).ready
    return JSONResponse({"ready": can}, 200 if can else 503)


@router.get("", response_model=ServerMetadata)
async def server(request: Request) -> Response:
    """The server."""
    return JSONResponse({"name": "manyhats", "version": __version__, "extensions": ["binary_tensor_data"]})


@router.get("/models/{task}", response_model=ModelMetadata)
async def model(task: str, request: Request) -> Response:
    """A task, its inputs and outputs."""
    return JSONResponse(_metadata(runtime_of(request), task))


@router.get("/models/{task}/versions/{number}", response_model=ModelMetadata)
async def version(task: str, number: str, request: Request) -> Response:
    """A version of a task, its inputs and outputs."""
    return JSONResponse(_metadata(runtime_of(request), _named(task, number)))


@router.get("/models/{task}/ready", response_model=ModelReady)
async def model_ready(task: str, request: Request) -> Response:
    """Whether a task is there, and the server can answer."""
    return _ready(request, task)


@router.get("/models/{task}/versions/{number}/ready", response_model=ModelReady)
async def version_ready(task: str, number: str, request: Request) -> Response:
    """Whether a version is there, and the server can answer."""
    return _ready(request, _named(task, number))


@infer_router.post("/models/{task}/infer", openapi_extra=documented(InferBody), response_model=Inferred)
async def infer_model(task: str, request: Request) -> Response:
    """Asks a task: texts in, the fields of its answers out."""
    return await infer(request, task)


@infer_router.post(
    "/models/{task}/versions/{number}/infer", openapi_extra=documented(InferBody), response_model=Inferred
)
async def infer_version(task: str, number: str, request: Request) -> Response:
    """Asks a version of a task."""
    return await infer(request, _named(task, number))


def _named(task: str, number: str) -> str:
    """A version's name. Raises InvalidRequest for a number that is none."""
    if "@" in task or not (number.isascii() and number.isdigit()):
        raise InvalidRequest(
            f"'{number[:50]}' is no version of '{task[:200]}'; versions are 1, 2, ...", param="version"
        )
    return f"{task}@{number}"


def _ready(request: Request, task: str) -> Response:
    runtime = runtime_of(request)
    kind_of(runtime, task)
    return JSONResponse({"name": task.partition("@")[0], "ready": runtime.ready}, 200 if runtime.ready else 503)


def _metadata(runtime: Runtime, task: str) -> dict[str, Any]:
    """Raises NotFound."""
    name = task_of(runtime, task)
    kind, numbers = KINDS[runtime.service.base.info.kind], []
    if name == BASE:
        check_base()
    if name != BASE:
        kind = kind_of(runtime, task)
        numbers = [str(version.number) for version in runtime.registry.lookup(name)[0].versions]
    inputs = ["text", "text_pair"]
    return {
        "name": task.partition("@")[0],
        "versions": numbers,
        "platform": f"manyhats_{kind.name}",
        "inputs": [{"name": one, "datatype": "BYTES", "shape": [-1]} for one in inputs],
        "outputs": [
            {"name": one, "datatype": _TENSORS[field][0], "shape": _TENSORS[field][1]} for one, field in kind.fields
        ],
    }

"""`/v1/models`: the bare backbone and every task."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from manyhats.api.auth import require_read
from manyhats.api.model_names import task_of, unknown_model
from manyhats.api.openai.answers import ModelBody, ModelList
from manyhats.api.state import runtime_of
from manyhats.errors import NotFound
from manyhats.registry.names import BASE
from manyhats.registry.records import Version
from manyhats.registry.visibility import sees
from manyhats.runtime import Runtime

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(require_read)])

_PAGE = 1000


@router.get("/models", response_model=ModelList)
async def models(request: Request) -> JSONResponse:
    """The bare backbone and every task that the key may ask."""
    runtime = runtime_of(request)
    found = [_model(runtime, runtime.backbone.name, None, bare=True)] if sees(BASE) else []
    page: str | None = None
    while True:
        tasks, page = runtime.registry.tasks(_PAGE, page)
        found += [_model(runtime, task.name, task.stable) for task in tasks]
        if page is None:
            return JSONResponse({"object": "list", "data": found})


@router.get("/models/{model:path}", response_model=ModelBody)
async def one_model(model: str, request: Request) -> JSONResponse:
    """One of them."""
    runtime = runtime_of(request)
    if f"/{model}" == runtime.backbone.name:  # a folder's: two slashes side by side have become one
        model = runtime.backbone.name
    task = task_of(runtime, model)
    if task == BASE and sees(BASE):
        return JSONResponse(_model(runtime, runtime.backbone.name, None, bare=True))
    try:
        return JSONResponse(_model(runtime, model, runtime.registry.task(task).stable))
    except NotFound:
        raise unknown_model(model) from None


def _model(runtime: Runtime, name: str, version: Version | None, *, bare: bool = False) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(version.created if version else runtime.started),
        "owned_by": "manyhats",
        "root": version.ref if version else name,
        "parent": None if bare else runtime.backbone.name,
        "max_model_len": runtime.backbone.max_tokens,
        "permission": [],
    }

"""`/v1/models`: the bare backbone and every task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from manyhats.api.auth import require_read
from manyhats.api.json_response import small_json
from manyhats.api.model_names import task_of, unknown_model
from manyhats.api.openai.answers import ModelBody, ModelList
from manyhats.api.state import runtime_of
from manyhats.errors import InvalidRequest, NotFound
from manyhats.registry.names import BASE, is_name
from manyhats.registry.paging import token_after
from manyhats.registry.records import Version
from manyhats.registry.visibility import sees
from manyhats.runtime import Runtime

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(require_read)])

_PAGE = 1000  # tasks of an answer, at most


@router.get("/models", response_model=ModelList)
async def models(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="how many, at most")] = _PAGE,
    after: Annotated[str | None, Query(description="those behind this model; `last_id` of the page before")] = None,
) -> Response:
    """The bare backbone and then the tasks that the key may ask, by name, a page at a time.

    `has_more` says whether others follow, and `last_id` is the `after` of the next page."""
    runtime = runtime_of(request)
    names = (runtime.backbone.name, BASE)
    if after is not None and after not in names and not is_name(after):
        raise InvalidRequest(
            f"after is `{after[:200]}`, which is no model's id; give a page's `last_id`", param="after"
        )
    found = []
    if after is None and sees(BASE):
        found.append(_model(runtime, runtime.backbone.name, None, bare=True))
    token = None if after is None or after in names else token_after(after)
    tasks, following = runtime.registry.tasks(limit, token)
    found += [_model(runtime, task.name, task.stable) for task in tasks]
    page = found[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    has_more = following is not None or len(found) > limit
    return small_json({"object": "list", "data": page, "has_more": has_more, **ends})


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

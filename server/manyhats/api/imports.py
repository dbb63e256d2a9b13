"""Folders that were copied or linked into the store: `/v1/imports`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from manyhats.api.answers import ImportList
from manyhats.api.auth import require_read
from manyhats.api.json_response import small_json
from manyhats.api.state import runtime_of
from manyhats.messages import printable
from manyhats.registry.imports import FolderImport
from manyhats.registry.paging import page_of
from manyhats.registry.visibility import sees

router = APIRouter(prefix="/v1/imports", tags=["tasks"], dependencies=[Depends(require_read)])


@router.get("", response_model=ImportList)
async def list_imports(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, page_token: str | None = None
) -> Response:
    """The folders in the store by name, a page at a time: imported, waiting, or refused with the reason.

    A key of some tasks sees those of these tasks alone."""
    listed = {one.folder: one for one in runtime_of(request).imports.listed() if sees(one.folder)}
    names, following = page_of(list(listed), limit, page_token)
    return small_json({"data": [_body(listed[name]) for name in names], "next_page_token": following})


def _body(one: FolderImport) -> dict[str, Any]:
    return {
        "folder": printable(one.folder),
        "status": one.status,
        "task": one.folder if one.status == "taken_in" else None,
        "version": one.version,
        "reason": None if one.reason is None else printable(one.reason),
    }

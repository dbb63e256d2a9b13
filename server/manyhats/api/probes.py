"""Probes by the names that other servers give them: `/health` (vLLM, TGI, TEI), `/ping` (SageMaker, vLLM), `/version`.

Load balancers and SageMaker send no key, so health is open to all, as `/healthz` and `/readyz` are.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import ConfigDict

from manyhats._version import __version__
from manyhats.api.auth import require_read
from manyhats.api.errors import response
from manyhats.api.schemas import AnswerBody
from manyhats.api.state import runtime_of
from manyhats.errors import NotReady

router = APIRouter(tags=["operations"])

_EMPTY: dict[int | str, dict[str, Any]] = {200: {"description": "It can answer now; the body is empty."}}


class VersionBody(AnswerBody):
    """The server's version."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": __version__}]})

    version: str


@router.get("/health", response_class=Response, responses=_EMPTY)
async def health(request: Request) -> Response:
    """It can answer now: 200 with an empty body, else 503."""
    return readiness(request)


@router.get("/ping", response_class=Response, responses=_EMPTY)
@router.post("/ping", response_class=Response, responses=_EMPTY)
async def ping(request: Request) -> Response:
    """It can answer now: 200 with an empty body, else 503."""
    return readiness(request)


@router.get("/version", dependencies=[Depends(require_read)])
async def version() -> VersionBody:
    """The server's version."""
    return VersionBody(version=__version__)


def readiness(request: Request) -> Response:
    """An empty answer where the server can answer, else the error that says why not."""
    runtime = runtime_of(request)
    if runtime.ready:
        return Response()
    return response(NotReady(f"the server is {runtime.condition}"))

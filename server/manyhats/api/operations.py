"""Health, readiness, metrics and the web page."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from manyhats._version import __version__
from manyhats.api.errors import response
from manyhats.api.state import runtime_of
from manyhats.errors import NotReady

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """It can answer now."""
    runtime = runtime_of(request)
    if not runtime.ready:
        return response(NotReady(f"the server is {runtime.state}"))
    return JSONResponse({"status": "ready", "backbone": runtime.backbone.name, "version": __version__})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(runtime_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> Any:
    """The web page."""
    text = resources.files("manyhats.api").joinpath("static/index.html").read_text(encoding="utf-8")
    return HTMLResponse(text)

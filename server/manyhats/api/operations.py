"""Health, readiness and metrics."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from manyhats._version import __version__
from manyhats.api.answers import Alive, ReadyBody
from manyhats.api.auth import sees_figures
from manyhats.api.errors import response
from manyhats.api.json_response import small_json
from manyhats.api.state import runtime_of
from manyhats.errors import NotReady
from manyhats.serving.metrics import SummedOverTasks

router = APIRouter(tags=["operations"])

_FIGURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"example": "# TYPE manyhats_ready gauge\nmanyhats_ready 1.0\n"}}}
}


@router.get("/healthz", response_model=Alive)
async def healthz() -> Response:
    """The process lives."""
    return small_json({"status": "ok"})


@router.get("/readyz", response_model=ReadyBody)
async def readyz(request: Request) -> JSONResponse:
    """It can answer now."""
    runtime = runtime_of(request)
    if not runtime.ready:
        return response(NotReady(f"the server is {runtime.condition}"))
    return JSONResponse({"status": "ready", "backbone": runtime.backbone.name, "version": __version__})


@router.get("/metrics", response_class=PlainTextResponse, responses=_FIGURES)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus: by task for those who may see tasks' names (`metrics_names`), for others in sum."""
    runtime = runtime_of(request)
    audience = runtime.settings.metrics_names
    named = audience == "everybody" or (audience == "readers" and sees_figures(request))
    collector = runtime.metrics.registry if named else SummedOverTasks(runtime.metrics)
    figures = await to_thread.run_sync(generate_latest, collector)  # many lines: no work for the event loop
    return Response(figures, media_type=CONTENT_TYPE_LATEST)

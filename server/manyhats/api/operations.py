"""Health, readiness, metrics and the web page."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from manyhats._version import __version__
from manyhats.api.answers import Alive, ReadyBody
from manyhats.api.auth import is_reader
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
    named = audience == "everybody" or (audience == "readers" and is_reader(request))
    registry = runtime.metrics.registry
    figures = generate_latest(registry if named else SummedOverTasks(registry))
    return Response(figures, media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> Any:
    """The web page."""
    return HTMLResponse(_page(), headers=_page_headers())


@cache
def _page() -> str:
    return resources.files("manyhats.api").joinpath("static/index.html").read_text(encoding="utf-8")


@cache
def _page_headers() -> dict[str, str]:
    """The page runs its own script and no other, talks to this server alone, and stands in no other page."""
    policy = {
        "default-src": "'none'",
        "script-src": _digest("script"),
        "style-src": _digest("style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _digest(element: str) -> str:
    """What a policy calls the page's inline script or style."""
    found = re.search(rf"<{element}>(.*?)</{element}>", _page(), re.DOTALL)
    assert found is not None
    return f"'sha256-{b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"

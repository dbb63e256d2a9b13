"""The web page at `/`, and what it loads: the bundle that `make page` writes into `static` from `server/page`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

ASSETS = "/page"
# The page runs its own script and no other, talks to this server alone, and stands in no other page.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "data:",
    "connect-src": "'self'",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# Of the answer in /openapi.json.
_SHOWN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"example": "<!doctype html>..."}}}}

router = APIRouter(tags=["page"])


class _Assets(StaticFiles):
    """The bundle's files; their addresses in the page change with what is in them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        answer = super().file_response(*args, **options)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer


def mount_assets(app: FastAPI) -> None:
    """Gives `app` what the page loads."""
    app.mount(ASSETS, _Assets(packages=[("manyhats.api", "static")]))


@router.get("/", response_class=HTMLResponse, responses=_SHOWN)
async def page() -> HTMLResponse:
    """The web page."""
    return HTMLResponse(_page(), headers=_HEADERS)


@cache
def _page() -> str:
    return resources.files("manyhats.api").joinpath("static", "index.html").read_text(encoding="utf-8")

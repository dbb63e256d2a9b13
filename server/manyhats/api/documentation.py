"""The interface's own pages, `/docs` (Swagger UI) and `/redoc`, with nothing from outside.

FastAPI's pages take their scripts from a content network, and stay blank where there is none. The same scripts come
from the package fastapi-offline here, whose releases follow those of Swagger UI and Redoc.
"""

from __future__ import annotations

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

SCRIPTS = "/docs/scripts"
_NO_ICON = "data:,"
# Both pages make styles and scripts of their own while they run, but load from this server alone.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

router = APIRouter(include_in_schema=False)


def mount_scripts(app: FastAPI) -> None:
    """Gives `app` what the pages load."""
    app.mount(SCRIPTS, StaticFiles(packages=[(fastapi_offline.__name__, "static")]))


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """All operations, to try them."""
    root = _root(request)
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Manyhats",
        swagger_js_url=f"{root}{SCRIPTS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{SCRIPTS}/swagger-ui.css",
        swagger_favicon_url=_NO_ICON,
    )
    page.headers.update(_HEADERS)
    return page


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    """All operations, to read."""
    root = _root(request)
    page = get_redoc_html(
        openapi_url=f"{root}/openapi.json",
        title="Manyhats",
        redoc_js_url=f"{root}{SCRIPTS}/redoc.standalone.js",
        redoc_favicon_url=_NO_ICON,
        with_google_fonts=False,
    )
    page.headers.update(_HEADERS)
    return page


def _root(request: Request) -> str:
    """What a proxy puts in front of the server's paths."""
    return str(request.scope.get("root_path", "")).rstrip("/")

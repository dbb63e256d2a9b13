"""The application: routes, limits and the one shape of error, around a runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from manyhats._version import __version__
from manyhats.api import downloads, errors, imports, lorax, openai, operations, predict, tasks, uploads
from manyhats.api.body import BodyLimit
from manyhats.api.disconnect import ClientDisconnected
from manyhats.api.exposure import allowed_hosts
from manyhats.api.middleware.content import JsonBodies
from manyhats.api.middleware.cors import Cors
from manyhats.api.middleware.encoding import GzipBodies
from manyhats.api.middleware.hosts import AllowedHosts
from manyhats.api.middleware.origins import SameOrigin
from manyhats.api.middleware.paths import HeadAsGet, LenientPaths
from manyhats.api.middleware.request_id import RequestId
from manyhats.api.schemas import ErrorBody
from manyhats.runtime import Runtime

_MULTIPART_OVERHEAD = 1 << 20  # bytes: boundaries and headers of an upload's parts


def create_app(runtime: Runtime) -> FastAPI:
    """The ASGI application for an opened runtime; it starts and stops the runtime with itself."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    settings = runtime.settings
    app = FastAPI(
        title="Manyhats",
        version=__version__,
        description="One frozen backbone, many tasks and methods, one batch.",
        lifespan=lifespan,
        redirect_slashes=False,  # LenientPaths leaves them out
        responses={
            "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is."},
            "5XX": {"model": ErrorBody, "description": "The server cannot serve it now."},
        },
    )
    app.state.runtime = runtime
    limits = {"json_limit": settings.max_body, "upload_limit": settings.max_upload + _MULTIPART_OVERHEAD}
    # The innermost first.
    app.add_middleware(BodyLimit, **limits)
    app.add_middleware(JsonBodies)
    app.add_middleware(GzipBodies, **limits)
    app.add_middleware(HeadAsGet)
    app.add_middleware(LenientPaths)
    app.add_middleware(SameOrigin, trusted=settings.cors_origins)
    app.add_middleware(AllowedHosts, allowed=allowed_hosts(settings))
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestId)
    errors.install(app)

    @app.exception_handler(ClientDisconnected)
    @app.exception_handler(ClientDisconnect)  # while the body was still on its way
    async def disconnected(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    ours = (
        predict.router,
        downloads.read_router,
        uploads.admin_router,
        tasks.read_router,
        tasks.admin_router,
        imports.router,
        operations.router,
    )
    for router in (*ours, *openai.routers, lorax.router):
        app.include_router(router)
    return app

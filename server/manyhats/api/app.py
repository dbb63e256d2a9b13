"""The application: routes, limits and the one shape of error, around a runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from manyhats._version import __version__
from manyhats.api import (
    audit,
    documentation,
    downloads,
    errors,
    huggingface,
    imports,
    kserve,
    lorax,
    lorax_pooled,
    monitoring,
    openai,
    operations,
    page,
    predict,
    probes,
    sagemaker,
    tasks,
    tei,
    uploads,
    vllm,
)
from manyhats.api.auth import check_declared
from manyhats.api.definitions import share_definitions
from manyhats.api.direct_route import DirectRoutes
from manyhats.api.disconnect import ClientDisconnected
from manyhats.api.drain import Drain
from manyhats.api.error_answers import complete_errors, complete_streams
from manyhats.api.examples import restore_nulls
from manyhats.api.exposure import allowed_hosts
from manyhats.api.middleware.gate import Gate
from manyhats.api.observer import Observer
from manyhats.api.schemas import ErrorBody
from manyhats.api.turns import Turns
from manyhats.runtime import Runtime
from manyhats.settings import Settings

_MULTIPART_OVERHEAD = 1 << 20  # bytes: boundaries and headers of an upload's parts


class Application(FastAPI):
    """FastAPI's application behind `front`: what is refused, or goes to a direct route, passes none of its layers."""

    front: ASGIApp
    observer: Observer
    gate: Gate
    drain: Drain

    def use(self, settings: Settings) -> None:
        """Has the limits of these settings from now on."""
        asks = self.state.runtime.access.asks_for_keys  # no file is looked for on the event loop
        self.gate.use(allowed_hosts(settings, asks=asks), settings.max_body, settings.max_upload + _MULTIPART_OVERHEAD)
        self.gate.timeout = settings.request_timeout
        self.drain.delay, self.drain.timeout = settings.drain_delay, settings.drain_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """What /openapi.json says; made once."""
        if self.openapi_schema is None:
            schema = super().openapi()
            complete_errors(schema)
            complete_streams(schema)
            share_definitions(schema)
            restore_nulls(schema)
        assert self.openapi_schema is not None
        return self.openapi_schema

    async def routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is behind the front."""
        await super().__call__(scope, receive, send)


def create_app(runtime: Runtime) -> Application:
    """The ASGI application for an opened runtime; it starts and stops the runtime with itself."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    settings = runtime.settings
    app = _with_routes(lifespan)
    app.state.runtime = runtime
    app.state.turns = Turns(lambda: runtime.engine.window)
    routes = [route for router in _routers() for route in router.routes]
    errors.install(app, [*app.routes, *routes])

    @app.exception_handler(ClientDisconnected)
    @app.exception_handler(ClientDisconnect)  # while the body was still on its way
    async def disconnected(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.observer = Observer(runtime.metrics.http, runtime.observation.recorder, with_texts=settings.log_texts)
    app.drain = Drain(delay=settings.drain_delay, timeout=settings.drain_timeout, on_leave=runtime.leave)
    app.front = app.gate = Gate(
        DirectRoutes(app.routed, application=app, routes=routes, handlers=app.exception_handlers),
        access=runtime.access,
        observer=app.observer,
        hosts=allowed_hosts(settings),
        origins=settings.cors_origins,
        json_limit=settings.max_body,
        upload_limit=settings.max_upload + _MULTIPART_OVERHEAD,
        check_open=app.drain.check,
        turns=app.state.turns,
        timeout=settings.request_timeout,
    )
    return app


def openapi_schema() -> dict[str, Any]:
    """What /openapi.json says, the same of every server."""
    return _with_routes(None).openapi()


def _with_routes(lifespan: Lifespan[FastAPI] | None) -> Application:
    app = Application(
        title="Manyhats",
        version=__version__,
        description="One frozen backbone, many tasks and methods, one batch.",
        lifespan=lifespan,
        redirect_slashes=False,  # the gate leaves them out
        docs_url=None,  # `documentation` has both
        redoc_url=None,
        # Ours say more (`manyhats.observability.traces`), and cost a request nothing.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        responses={
            "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is."},
            "5XX": {"model": ErrorBody, "description": "The server cannot serve it now."},
        },
    )
    for router in _routers():
        app.include_router(router)
    documentation.mount_scripts(app)
    page.mount_assets(app)
    check_declared(app.routes)
    return app


def _routers() -> tuple[APIRouter, ...]:
    return (
        predict.router,
        downloads.read_router,
        uploads.router,
        tasks.read_router,
        tasks.admin_router,
        imports.router,
        monitoring.router,
        audit.router,
        operations.router,
        probes.router,
        documentation.router,
        page.router,
        # those of other servers
        *openai.routers,
        *vllm.routers,
        *tei.routers,
        *huggingface.routers,
        *kserve.routers,
        sagemaker.router,
        lorax_pooled.router,
        lorax.router,
    )

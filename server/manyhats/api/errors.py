"""One shape of error on every route: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from manyhats import errors
from manyhats.api.allowed_methods import allowed_methods
from manyhats.core.call import CURRENT_CALL, NO_CALL
from manyhats.messages import field_error, printable

logger = logging.getLogger(__name__)

# Exception, status, the `type` that the caller sees. The first that fits holds.
KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.InvalidRequest, 400, "BadRequestError"),
    (errors.AuthenticationRequired, 401, "AuthenticationError"),
    (errors.PermissionDenied, 403, "PermissionDeniedError"),
    (errors.NotFound, 404, "NotFoundError"),
    (errors.SlowRequest, 408, "RequestTimeoutError"),
    (errors.Conflict, 409, "ConflictError"),
    (errors.HeadTooLarge, 431, "HeadTooLargeError"),
    (errors.TooLarge, 413, "TooLargeError"),
    (errors.UnsupportedFormat, 415, "UnsupportedFormatError"),
    (errors.UnknownHost, 421, "MisdirectedRequestError"),
    (errors.AdapterMismatch, 422, "AdapterMismatchError"),
    (errors.Overloaded, 429, "OverloadedError"),
    (errors.DamagedStore, 500, "DamagedStoreError"),
    (errors.AdapterQuarantined, 500, "AdapterQuarantinedError"),
    (errors.AdapterFailure, 500, "AdapterFailureError"),
    (errors.OutOfMemory, 500, "OutOfMemoryError"),
    (errors.EngineFailure, 500, "InternalServerError"),
    (errors.SourceFailed, 502, "SourceFailedError"),
    (errors.NotReady, 503, "ServiceUnavailableError"),
    (errors.DeadlineExceeded, 504, "DeadlineExceededError"),
    (errors.StorageFull, 507, "StorageFullError"),
    (Exception, 500, "InternalServerError"),
)

# The status and the body of an answer to a failure.
Shape = Callable[[Exception], tuple[int, Any]]

_LONGEST_MESSAGE = 4000  # characters
_LONGEST_PARAM = 200

_BY_STATUS = {status: kind for _, status, kind in KINDS} | {405: "MethodNotAllowedError"}


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for an exception."""
    status, kind = kind_of(error)
    if isinstance(error, errors.ManyhatsError):
        message, param = error.message, error.param
    else:
        message, param = "the server failed on this request; its log says why", None
    return status, envelope(status, kind, message, param)


def kind_of(error: Exception) -> tuple[int, str]:
    """The status of an error, and the type that the caller sees."""
    return next((status, kind) for cls, status, kind in KINDS if isinstance(error, cls))


def note_error(kind: str) -> None:
    """Notes for the log of requests with what type of error a request ends."""
    if (call := CURRENT_CALL.get()) is not NO_CALL:
        call.error = kind


def envelope(status: int, kind: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of every error."""
    message = _shortened(message, _LONGEST_MESSAGE)
    param = None if param is None else _shortened(param, _LONGEST_PARAM)
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _shortened(text: str, longest: int) -> str:
    """A text that an answer can carry: what a caller sent may stand in it, however long."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return printable(text)


def response(error: Exception, shape: Shape = describe) -> JSONResponse:
    """The answer to a request that failed with `error`, in the `shape` that the route's clients expect."""
    note_error(kind_of(error)[1])
    status, body = shape(error)
    headers = {}
    if isinstance(error, errors.Overloaded | errors.NotReady):
        headers["Retry-After"] = str(max(math.ceil(error.retry_after), 1))
    if isinstance(error, errors.AuthenticationRequired):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def _route_path(request: Request) -> str:
    """The path without what a proxy puts in front of it."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")) or path


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Gives every failure of `app` the one shape. `routes`: all that it has."""

    @app.exception_handler(errors.ManyhatsError)
    async def ours(_: Request, error: errors.ManyhatsError) -> JSONResponse:
        return response(error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            message = f"there is no route {request.method} {request.url.path}; /docs lists them all"
        elif error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}"
            headers = {"Allow": ", ".join(allowed_methods(routes, _route_path(request)))}
        kind = _BY_STATUS.get(error.status_code, "BadRequestError")
        note_error(kind)
        return JSONResponse(envelope(error.status_code, kind, message), error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = field_error(error.errors()[0])
        where = ".".join(map(str, first.location[1:]))  # without the part of the request that it stands in
        return response(errors.InvalidRequest(f"{where}: {first.message}", param=where))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        request_id = getattr(request.state, "request_id", "")
        logger.error("%s %s failed (X-Request-Id %s)", request.method, request.url.path, request_id, exc_info=error)
        answer = response(error)
        answer.headers["X-Request-Id"] = request_id  # this answer is made outside of all middleware
        answer.headers["Connection"] = "close"  # uvicorn closes it behind an exception: nobody may send more on it
        return answer

"""CORS for the origins that the operator names: Starlette's own, with our shape of error."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from manyhats.api.errors import response
from manyhats.errors import PermissionDenied

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_READABLE = ("Location", "Retry-After", "Content-Disposition", "X-Request-Id")  # headers of an answer, for pages


class Cors(CORSMiddleware):
    """Lets pages of `origins` (`*`: all) ask and read the answers. No cookies: a key comes in its header."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=_METHODS, allow_headers=("*",), expose_headers=_READABLE
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser's question whether a page may ask."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refused = response(PermissionDenied(f"this page may not ask: {bytes(answer.body).decode()}", param="Origin"))
        refused.headers["Vary"] = answer.headers["Vary"]
        return refused

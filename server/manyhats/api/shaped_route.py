"""Routes whose errors have the shape that another server's clients expect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response

from manyhats.api.direct_route import DirectRoute, Handler
from manyhats.api.errors import Shape, describe, response
from manyhats.errors import ManyhatsError

# Exception, status, and what else a body says of it. The first that fits holds.
Kinds = Iterable[tuple[type[Exception], int, str]]


def shaped_route(shape: Shape) -> type[DirectRoute]:
    """A class of routes whose errors are answered in this shape."""

    class ShapedRoute(DirectRoute):
        """Errors in another server's shape."""

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await inner(request)
                except ManyhatsError as error:
                    return response(error, shape)

            return handle

    return ShapedRoute


def typed_error(kinds: Kinds, unknown: str) -> Shape:
    """`{"error", "error_type"}`, as the servers of Hugging Face and LoRAX answer. `unknown`: the type of all others."""

    def shape(error: Exception) -> tuple[int, Any]:
        status, body = describe(error)
        known = ((own, name) for kind, own, name in kinds if isinstance(error, kind))
        status, name = next(known, (status, unknown))
        return status, {"error": body["error"]["message"], "error_type": name}

    return shape

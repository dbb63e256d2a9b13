"""Routes whose errors have the shape that another server's clients expect."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from fastapi import Request, Response
from pydantic import ConfigDict

from manyhats.api.direct_route import DirectRoute, Handler
from manyhats.api.errors import Shape, describe, response
from manyhats.api.schemas import AnswerBody
from manyhats.errors import ManyhatsError

# Exception, status, and what else a body says of it. The first that fits holds.
Kinds = Iterable[tuple[type[Exception], int, str]]


class TypedErrorBody(AnswerBody):
    """An error as the servers of Hugging Face and LoRAX answer it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "the text is too long", "error_type": "validation"}]}
    )

    error: str
    error_type: str


# What /openapi.json says of such routes' errors.
TYPED_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": TypedErrorBody, "description": "The request cannot be answered as it is."},
    "5XX": {"model": TypedErrorBody, "description": "The server cannot answer it now."},
}


def shaped_route(shape: Shape) -> type[DirectRoute]:
    """A class of routes whose errors are answered in this shape."""

    class ShapedRoute(DirectRoute):
        """Errors in another server's shape."""

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return await in_shape(shape, inner(request))

            return handle

    return ShapedRoute


async def in_shape(shape: Shape, work: Awaitable[Response]) -> Response:
    """The answer of `work`, or its error in this shape."""
    try:
        return await work
    except ManyhatsError as error:
        return response(error, shape)


def typed_error(kinds: Kinds, unknown: str | None = None) -> Shape:
    """`{"error", "error_type"}`, as the servers of Hugging Face and LoRAX answer.

    `unknown`: the type of all other errors; None: what they are called here.
    """

    def shape(error: Exception) -> tuple[int, Any]:
        status, body = describe(error)
        known = ((own, name) for kind, own, name in kinds if isinstance(error, kind))
        status, name = next(known, (status, unknown or body["error"]["type"]))
        return status, {"error": body["error"]["message"], "error_type": name}

    return shape

"""Reads request bodies: bounded in values, and parsed beside the event loop."""

from __future__ import annotations

import json
import time
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from manyhats.api.definitions import form_of
from manyhats.api.json_size import check_values
from manyhats.api.state import runtime_of
from manyhats.core.call import CURRENT_CALL
from manyhats.errors import InvalidRequest
from manyhats.messages import first_error, repeated_field
from manyhats.serving.threads import SMALL_BODY, at_once_if

M = TypeVar("M", bound=BaseModel)

_BODY = "manyhats.body"  # of a scope: the body that has been read


async def parse(request: Request, model: type[M]) -> M:
    """The JSON body as `model`. Its field `timeout`, where the model has one, is the call's from now on, in seconds.

    Raises TooLarge for one of too many values, and InvalidRequest naming the first field that is wrong.
    """
    body = await read_body(request)
    limit = runtime_of(request).settings.max_values
    parsed = await at_once_if(len(body) <= SMALL_BODY, lambda: parse_bytes(body, model, limit))
    if (seconds := getattr(parsed, "timeout", None)) is not None:
        CURRENT_CALL.get().limit(time.monotonic() + seconds)
    return parsed


async def read_body(request: Request) -> bytes:
    """The whole body, which usually is one message. Raises ClientDisconnect where it does not come.

    A route that sees by the body's form which other route answers has it read again: the server sends it once, so it
    stays with the request.
    """
    known: bytes | None = request.scope.get(_BODY)
    if known is not None:
        return known
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = request.scope[_BODY] = parts[0] if len(parts) == 1 else b"".join(parts)
    return body


def parse_bytes(body: bytes, model: type[M], max_values: int) -> M:
    """JSON as `model`. Blocking. Raises what `parse` raises."""
    check_values(body, max_values)
    try:
        parsed = model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _invalid(error) from None
    _refuse_repeated(body or b"{}")
    return parsed


def _refuse_repeated(body: bytes) -> None:
    """Raises InvalidRequest for a field that stands twice in one object of valid JSON: only one could be followed."""

    if body.count(b":") < 2:  # a single field
        return
    # A byte a character: what stands in texts does not matter, and one character beyond Latin would make all four times
    # as large.
    _REPEATED.decode(body.decode("latin-1"))


def _once(pairs: list[tuple[str, Any]]) -> None:
    name = repeated_field(pairs)
    if name is not None:
        name = name.encode("latin-1").decode(errors="replace")
        raise InvalidRequest(f"the field '{name}' stands twice in one object", param=name)


_REPEATED = json.JSONDecoder(object_pairs_hook=_once, strict=False)


def _invalid(error: ValidationError) -> InvalidRequest:
    first = first_error(error)
    where = first.field or "body"
    return InvalidRequest(f"{where}: {first.message}", param=where)


def documented(*models: type[BaseModel]) -> dict[str, Any]:
    """The body's schema for /openapi.json, for routes that use `parse`; of several models, a body is one."""
    schema = form_of(*models, mode="validation")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def documented_events(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a route answers in a stream, for /openapi.json: server-sent events, each a `model` in JSON."""
    return {200: {"content": {"text/event-stream": {"schema": form_of(model, mode="serialization")}}}}

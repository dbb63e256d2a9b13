"""Answers in JSON: what is small is written on the event loop, what is not in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import Response
from pydantic_core import to_json

from manyhats.serving.threads import SMALL_OUTPUT, at_once_if

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_bytes(value: Any) -> bytes:
    """A value as JSON; arrays are written as lists."""
    return orjson.dumps(value, option=_OPTIONS)


def small_json(value: Any) -> Response:
    """A small value as JSON, without arrays. It may have integers of any length, as a task's own settings may."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


async def json_response(make: Callable[[], Any], size: int) -> Response:
    """What `make` gives, as JSON; arrays are written as lists. `size`: roughly how many values it has; embeddings of
    tokens can be megabytes."""
    data = await at_once_if(size <= SMALL_OUTPUT, lambda: json_bytes(make()))
    return Response(data, media_type="application/json")

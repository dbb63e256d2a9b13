"""Answers in JSON: what is small is written on the event loop, what is not in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from manyhats.serving.threads import SMALL_OUTPUT, at_once_if


async def json_response(make: Callable[[], Any], size: int) -> Response:
    """What `make` gives, as JSON. `size`: roughly how many values it has; embeddings of tokens can be megabytes."""
    data = await at_once_if(size <= SMALL_OUTPUT, lambda: to_json(make()))
    return Response(data, media_type="application/json")

"""A body is received once, whoever reads it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from manyhats.api.body import parse, read_body
from pydantic import BaseModel
from starlette.requests import ClientDisconnect


class Body(BaseModel):
    number: int


def request_of(*messages: dict[str, Any]) -> Request:
    """A request whose server sends these messages and no more."""
    left = list(messages)
    runtime = SimpleNamespace(settings=SimpleNamespace(max_values=10))
    app = SimpleNamespace(state=SimpleNamespace(runtime=runtime))

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return Request({"type": "http", "app": app}, receive)


def part(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_it_is_received_once_and_read_as_often_as_needed() -> None:
    request = request_of(part(b'{"num', True), part(b'ber": 3}'))

    async def read() -> list[Any]:
        again = Request(request.scope)  # of another route, which cannot receive
        return [(await parse(one, Body)).number for one in (request, request, again)]

    assert asyncio.run(read()) == [3, 3, 3]


def test_an_empty_one_is_received_once() -> None:
    request = request_of(part(b""))

    async def read() -> list[bytes]:
        return [await read_body(request), await read_body(request)]

    assert asyncio.run(read()) == [b"", b""]


def test_a_client_that_goes_while_it_sends_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(read_body(request_of(part(b"{", True), {"type": "http.disconnect"})))

"""What all bodies under way may hold together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from manyhats.api.middleware.gate import Gate
from manyhats.errors import Overloaded

from tests.api.middleware.asgi import gate

LIMIT = 1 << 20


def scope(path: str = "/v1/tasks/a/predict", method: str = "POST", client: str = "10.0.0.1") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [], "client": (client, 1)}


async def reading(limits: Gate, size: int, **of: str) -> None:
    """Reads a body of `size` bytes to its end."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size), "more_body": False}

    async def send(_: Any) -> None: ...

    await limits(scope(**of), receive, send)


def make(held: asyncio.Event) -> Gate:
    async def app(_: Any, receive: Any, __: Any) -> None:
        await receive()
        await held.wait()

    return gate(json_limit=LIMIT, upload_limit=100 * LIMIT)(app)


def test_bodies_under_way_are_limited_together() -> None:
    async def story() -> None:
        go = asyncio.Event()
        limits = make(go)
        many = [asyncio.ensure_future(reading(limits, LIMIT, client=f"10.0.1.{i}")) for i in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="bodies of requests under way"):
            await reading(limits, LIMIT)
        small = asyncio.ensure_future(reading(limits, 1000))  # is read however much the others hold
        upload = asyncio.ensure_future(reading(limits, 50 * LIMIT, path="/v1/tasks/a/versions"))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*many, small, upload)
        await reading(limits, LIMIT)  # what they held is given back

    asyncio.run(story())


def test_bodies_of_one_client_are_limited_together() -> None:
    async def story() -> None:
        go = asyncio.Event()
        limits = make(go)
        many = [asyncio.ensure_future(reading(limits, LIMIT)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="this client's requests"):
            await reading(limits, LIMIT)
        other = asyncio.ensure_future(reading(limits, LIMIT, client="10.0.0.2"))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*many, other)
        await reading(limits, LIMIT)

    asyncio.run(story())

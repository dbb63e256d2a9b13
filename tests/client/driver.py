"""Drives both clients with one set of tests: a server of canned answers, and blocking calls on either client."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from manyhats_client import AsyncClient, Client

KINDS = ("blocking", "asyncio")
URL = "http://hats.test"

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """An error as the server writes it."""
    body = {"message": message, "type": "SomeError", "param": None, "code": status} | fields
    return httpx.Response(status, json={"error": body}, headers=headers)


class Server:
    """Gives its replies in turn (the last one again and again) and keeps what it was sent."""

    def __init__(self, replies: Iterable[Reply] = ()) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            # A new one each time: a response is read once.
            return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)
        return reply(request)

    @property
    def asked(self) -> tuple[str, str]:
        """Method and raw path of the last request."""
        last = self.requests[-1]
        return last.method, last.url.raw_path.decode()

    @property
    def body(self) -> Any:
        """The JSON of the last request; None where it had no body."""
        content = self.requests[-1].content
        return json.loads(content) if content else None


class Driver:
    """One of the clients; every method can be called as if it were blocking."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner, pauses: list[float]) -> None:
        self.client = client
        self.pauses = pauses
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                return self._runner.run(_result_of(result))
            if hasattr(result, "__aiter__"):
                return self._runner.run(_list_of(result))
            return list(result) if isinstance(result, Iterator) else result

        return call

    def read(self, stream: Any) -> list[Any]:
        """The events of a stream."""
        return self._runner.run(_list_of(stream)) if hasattr(stream, "__aiter__") else list(stream)


async def _result_of(awaitable: Any) -> Any:
    return await awaitable


async def _list_of(items: Any) -> list[Any]:
    return [item async for item in items]


@contextmanager
def driven(kind: str, handler: Callable[[httpx.Request], httpx.Response] | None, **options: Any) -> Iterator[Driver]:
    """A client that waits without waiting; without a handler it uses real connections."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    options = {"base_url": URL, "transport": handler and httpx.MockTransport(handler)} | options
    blocking = kind == "blocking"
    client = Client(sleep=pauses.append, **options) if blocking else AsyncClient(sleep=sleep, **options)
    with asyncio.Runner() as runner:
        driver = Driver(client, runner, pauses)
        try:
            yield driver
        finally:
            driver.close()

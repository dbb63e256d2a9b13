"""A small ASGI server for one request, so that a middleware can be watched message by message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from manyhats.access.control import AccessControl
from manyhats.api.middleware.gate import Gate
from manyhats.api.turns import Turns
from manyhats.settings import Settings
from starlette.types import ASGIApp, Message


def scope(method: str = "POST", path: str = "/v1/predict", **headers: str) -> dict[str, Any]:
    """A request's scope; a header's name is written with `_`."""
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": raw, "server": ("10.0.0.5", 8000)}


def pieces(body: Iterable[bytes]) -> list[Message]:
    """A body's messages; the last one says that it is."""
    chunks = list(body)
    return [{"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)]


def gate(**options: Any) -> Callable[[ASGIApp], Gate]:
    """Puts a gate before a route: one that lets all pass but for what `options` say."""
    given = {"hosts": None, "origins": (), "json_limit": 1 << 20, "upload_limit": 1 << 20, "access": no_keys()}
    given |= {"timeout": 60.0, "turns": Turns(lambda: 16)}
    return lambda app: Gate(app, **given | options)


def no_keys() -> AccessControl:
    """Of a server without keys."""
    return AccessControl(Settings(store=Path("no-such-store")))


def ask(make: Callable[[ASGIApp], ASGIApp], scope: dict[str, Any], messages: list[Message] | None = None) -> Asked:
    """Sends one request through the middleware that `make` puts before a route which reads the body and answers 200."""
    asked = Asked(messages or pieces([b""]))
    asyncio.run(make(asked.route)(scope, asked.receive, asked.send))
    return asked


class Asked:
    """What became of a request: `body` as the route read it, `scope` as it came there, and what was `sent`."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self.taken = 0
        self.longest = 0  # bytes of the longest piece that the route got
        self.body = b""
        self.scope: dict[str, Any] | None = None
        self.sent: list[Message] = []

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    async def receive(self) -> Message:
        if self.taken == len(self._messages):
            return {"type": "http.disconnect"}
        self.taken += 1
        return self._messages[self.taken - 1]

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def route(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request", "the body ended too early"
            self.longest = max(self.longest, len(message["body"]))
            self.body += message["body"]
            more = message["more_body"]
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two", "more_body": False})

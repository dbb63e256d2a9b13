"""One request and its answer between the front and a replica's application: ASGI, with the messages in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from manyhats.api.disconnect import EXTENSION

_KEPT = 16  # messages of an answer that are there before they are taken
_PATIENCE = 5.0  # seconds that an application has to end a request that nobody waits for


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as it goes to a replica. `task`: what its router goes by; `parts`: what of the body follows `body`,
    each an object of Ray's store."""

    task: str | None
    scope: dict[str, Any]
    body: bytes = b""
    parts: tuple[Awaitable[bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of an answer: its status, its headers, and the first of its body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    more: bool


_SENT = ("method", "path", "raw_path", "query_string", "root_path", "headers", "scheme", "http_version")


def portable(scope: Scope) -> dict[str, Any]:
    """What of a request's scope another process needs."""
    sent = {name: scope[name] for name in _SENT if name in scope}
    for name in ("client", "server"):
        sent[name] = tuple(scope[name]) if scope.get(name) else None
    sent["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return sent


class Exchange:
    """Has an application answer one request."""

    def __init__(self, app: ASGIApp, asked: Asked) -> None:
        self._app = app
        self._asked = asked
        self._out: asyncio.Queue[Message | None] = asyncio.Queue(_KEPT)
        self._gone = asyncio.Event()
        self._on_gone: Callable[[], None] | None = None
        self._parts: Iterator[bytes | Awaitable[bytes]] = iter((asked.body, *asked.parts))
        self._left = 1 + len(asked.parts)

    async def answer(self) -> AsyncIterator[Begun | bytes]:
        """The answer, as it comes. Closed before its end, it tells the application that its client has gone.

        Raises what the application raises.
        """
        running = asyncio.create_task(self._run())
        begin: Message | None = None
        try:
            while (message := await self._out.get()) is not None:
                if message["type"] == "http.response.start":
                    begin = message
                    continue
                body, more = message.get("body", b""), message.get("more_body", False)
                if begin is not None:
                    yield Begun(begin["status"], [(bytes(n), bytes(v)) for n, v in begin["headers"]], body, more)
                    begin = None
                elif body:
                    yield body
            await running
        finally:
            if not running.done():
                await self._leave(running)

    async def _run(self) -> None:
        extensions = {EXTENSION: self._watch}
        scope: Scope = {"type": "http", "asgi": {"version": "3.0"}, **self._asked.scope, "extensions": extensions}
        try:
            await self._app(scope, self._receive, self._out.put)
        finally:
            if not self._gone.is_set():
                await self._out.put(None)

    async def _receive(self) -> Message:
        if self._left and not self._gone.is_set():
            self._left -= 1
            part = next(self._parts)
            return {
                "type": "http.request",
                "body": part if isinstance(part, bytes) else await part,
                "more_body": self._left > 0,
            }
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def _watch(self, on_disconnect: Callable[[], None] | None) -> None:
        self._on_gone = on_disconnect
        if on_disconnect is not None and self._gone.is_set():
            on_disconnect()

    async def _leave(self, running: asyncio.Task[None]) -> None:
        """Ends work whose answer nobody reads."""
        self._gone.set()
        if self._on_gone is not None:
            self._on_gone()
        while not self._out.empty():  # who waits to put something there goes on
            self._out.get_nowait()
        await asyncio.wait([running], timeout=_PATIENCE)
        running.cancel()
        await asyncio.wait([running])

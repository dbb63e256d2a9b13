"""What takes the requests: reads a body within the limits, finds the task, and passes the answer of a replica on.

It is ASGI, and knows neither Ray nor the model. Who may do what is checked where the request is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from manyhats.api import errors
from manyhats.api.middleware.content import is_upload
from manyhats.errors import Conflict, DeadlineExceeded, EngineFailure, ManyhatsError, NotReady, Overloaded, TooLarge
from manyhats.messages import first_line
from manyhats.scale.exchange import Asked, Begun, portable
from manyhats.scale.naming import changes, task_in_body, task_in_path

logger = logging.getLogger(__name__)

_PART = 4 << 20  # bytes of a body that go through Ray's store as one object; what is shorter goes with the request
_GRACE = 5.0  # seconds beside `request_timeout`, so that the replica's own answer comes first
_MULTIPART_OVERHEAD = 1 << 20  # bytes: boundaries and headers of an upload's parts


@dataclass(frozen=True, slots=True)
class Limits:
    """What a front allows, of the settings of the same names; `read_only`: why tasks cannot change here, or empty."""

    max_body: int
    max_upload: int
    request_timeout: float
    read_only: str = ""


@dataclass(frozen=True, slots=True)
class Transport:
    """How the front reaches the replicas. `lost`: what is raised where a replica ended; `full`: where too many wait."""

    ask: Callable[[Asked], AsyncIterator[Begun | bytes]]
    store: Callable[[bytes], Awaitable[bytes]]
    lost: tuple[type[BaseException], ...] = ()
    full: tuple[type[BaseException], ...] = ()


class Front:
    """The ASGI application in front of the replicas."""

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                asked = await self._read(scope, receive)
                if asked is not None:
                    await self._answer(asked, send)
            except ManyhatsError as error:
                await errors.response(error)(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> Asked | None:
        """The request; None where its client has gone. Raises TooLarge, and Conflict for a change of what is fixed."""
        limit = self._limits.max_upload + _MULTIPART_OVERHEAD if is_upload(scope) else self._limits.max_body
        name = "max_upload" if is_upload(scope) else "max_body"
        if self._limits.read_only and changes(scope["method"], scope["path"]):
            raise Conflict(self._limits.read_only)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        read = int(length) if length.isdigit() and len(length) < 20 else 0
        _check(read, limit, name)
        whole, read = bytearray(), 0
        parts: list[Awaitable[bytes]] = []
        first = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            read += len(chunk)
            _check(read, limit, name)
            whole += chunk
            if len(whole) >= _PART:
                parts.append(await self._transport.store(bytes(whole)))  # type: ignore[arg-type]  # a reference
                whole.clear()
            if not message.get("more_body", False):
                break
        if parts:
            if whole:
                parts.append(await self._transport.store(bytes(whole)))  # type: ignore[arg-type]
        else:
            first = bytes(whole)
        task = task_in_path(scope["path"]) or (None if is_upload(scope) else task_in_body(first))
        return Asked(task, portable(scope), first, tuple(parts))

    async def _answer(self, asked: Asked, send: Send) -> None:
        """Has a replica answer. What a replica held when it ended is asked once more, unless part of its answer has
        gone out, or it may have changed something.

        Raises EngineFailure where a second one ended too, or it may not be asked again; Overloaded, DeadlineExceeded.
        """
        again = not changes(asked.scope["method"], asked.scope["path"])
        for attempt in (1, 2):
            begun: Begun | None = None
            try:
                async for piece in self._pieces(asked):
                    begun = begun or (piece if isinstance(piece, Begun) else None)
                    await _pass_on(piece, send)
                if begun is not None:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                raise EngineFailure("a replica ended without an answer")
            except self._transport.full as error:
                raise Overloaded(f"too many requests wait for the replicas: {first_line(error)}") from None
            except self._transport.lost as error:
                logger.warning("a replica ended while it held a request: %s", first_line(error))
                if begun is not None:
                    await _cut(begun, send)
                    return
                if not again:
                    raise NotReady(
                        "the replica that did this ended meanwhile; whether it is done, the task shows: look, then try "
                        "again"
                    ) from None
                if attempt == 2:
                    raise NotReady("two replicas ended while they held this request") from None

    async def _pieces(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
        """The answer's pieces. The first has to come within the time that the replica itself would take."""
        answer = self._transport.ask(asked)
        try:
            async with asyncio.timeout(self._limits.request_timeout + _GRACE):
                first = await anext(answer, None)
        except TimeoutError:
            raise DeadlineExceeded("no replica answered in time; all of them may be starting") from None
        if first is not None:
            yield first
            async for piece in answer:
                yield piece


async def _pass_on(piece: Begun | bytes, send: Send) -> None:
    if isinstance(piece, Begun):
        await send({"type": "http.response.start", "status": piece.status, "headers": piece.headers})
        piece = piece.body
    if piece:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _cut(begun: Begun, send: Send) -> None:
    """Ends an answer whose replica has ended, so that its client learns of it."""
    content = dict(begun.headers).get(b"content-type", b"")
    if not content.startswith(b"text/event-stream"):
        raise ConnectionError("the replica ended in the middle of its answer")  # the connection is closed
    _, body = errors.describe(NotReady("the replica ended in the middle of its answer; ask again"))
    event: Message = {"type": "http.response.body", "body": _event(body), "more_body": False}
    await send(event)


def _event(body: object) -> bytes:
    import orjson

    return b"data: " + orjson.dumps(body) + b"\n\n"


def _check(read: int, limit: int, name: str) -> None:
    if read > limit:
        raise TooLarge(f"the body has more than {limit} bytes, which the setting {name} allows")


async def _live(receive: Receive, send: Send) -> None:
    """There is nothing to start or end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

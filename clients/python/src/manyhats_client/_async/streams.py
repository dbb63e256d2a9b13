"""Answers that come token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import ValidationError

from manyhats_client._async.sender import AsyncSender
from manyhats_client.choices import CallOptions
from manyhats_client.connection import translated
from manyhats_client.errors import request_id_of
from manyhats_client.events import DONE, EventReader, broken_off, decoded, not_understood
from manyhats_client.operations import Operation

E = TypeVar("E")
A = TypeVar("A")


class AsyncStream(Generic[E, A]):
    """An answer in events, as they come.

    Iterate over it, once. It is asked for as soon as it is iterated over or entered as a context manager. Leaving the
    context, `close`, or the end of the iteration closes the connection, and the server then stops generating.
    """

    def __init__(
        self, sender: AsyncSender, operation: Operation[Any], options: CallOptions, events: EventReader[E, A]
    ) -> None:
        self._sender = sender
        self._operation = operation
        self._options = options
        self._events = events
        self._response: httpx.Response | None = None
        self._read = False
        self._ended = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[E]:
        if self._read:
            raise RuntimeError("a stream can be read once")
        self._read = True
        response = await self._open()
        try:
            async for event in self._events_of(response):
                yield event
        finally:
            await self.close()

    async def _events_of(self, response: httpx.Response) -> AsyncIterator[E]:
        with translated():
            try:
                async for event in EventSource(response).aiter_sse():
                    if event.data == DONE:
                        self._ended = True
                        return
                    for one in self._events.read(decoded(event.data, response)):
                        yield one
            except (SSEError, ValidationError) as error:
                raise not_understood(response, error) from error
        raise broken_off(response)

    @property
    def answer(self) -> A:
        """The whole answer. Raises RuntimeError before the stream was read to its end."""
        answer = self._events.answer() if self._ended else None
        if answer is None:
            raise RuntimeError("the answer is whole when the stream has been read to its end")
        return answer

    @property
    def request_id(self) -> str | None:
        """The `X-Request-Id`; None before it is asked for."""
        return None if self._response is None else request_id_of(self._response)

    async def close(self) -> None:
        """Closes the connection."""
        if self._response is not None:
            await self._response.aclose()

    async def _open(self) -> httpx.Response:
        if self._response is None:
            self._response = await self._sender._send(self._operation, self._options, stream=True)
        return self._response

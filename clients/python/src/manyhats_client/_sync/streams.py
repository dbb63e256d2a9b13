# Made by scripts/sync_client.py of _async/streams.py; not edited by hand.
"""Answers that come token by token."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import ValidationError

from manyhats_client._sync.sender import Sender
from manyhats_client.choices import CallOptions
from manyhats_client.connection import translated
from manyhats_client.errors import request_id_of
from manyhats_client.events import DONE, EventReader, broken_off, decoded, not_understood
from manyhats_client.operations import Operation

E = TypeVar("E")
A = TypeVar("A")


class Stream(Generic[E, A]):
    """An answer in events, as they come.

    Iterate over it, once. It is asked for as soon as it is iterated over or entered as a context manager. Leaving the
    context, `close`, or the end of the iteration closes the connection, and the server then stops generating.
    """

    def __init__(
        self, sender: Sender, operation: Operation[Any], options: CallOptions, events: EventReader[E, A]
    ) -> None:
        self._sender = sender
        self._operation = operation
        self._options = options
        self._events = events
        self._response: httpx.Response | None = None
        self._read = False
        self._ended = False

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[E]:
        if self._read:
            raise RuntimeError("a stream can be read once")
        self._read = True
        response = self._open()
        try:
            yield from self._events_of(response)
        finally:
            self.close()

    def _events_of(self, response: httpx.Response) -> Iterator[E]:
        with translated():
            try:
                for event in EventSource(response).iter_sse():
                    if event.data == DONE:
                        self._ended = True
                        return
                    yield from self._events.read(decoded(event.data, response))
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

    def close(self) -> None:
        """Closes the connection."""
        if self._response is not None:
            self._response.close()

    def _open(self) -> httpx.Response:
        if self._response is None:
            self._response = self._sender._send(self._operation, self._options, stream=True)
        return self._response

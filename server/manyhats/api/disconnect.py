"""Stops work for clients that have disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")

# The extension of a scope with which a server says that it calls back when the client disconnects: a function that
# takes what is called, or None to call nothing any more.
EXTENSION = "manyhats.disconnect"


class ClientDisconnected(Exception):
    """The client closed the connection before its answer was ready."""


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in the caller's own task, and cancels it as soon as the client disconnects. The body must have been
    read.

    Raises ClientDisconnected where that happened.
    """
    task = asyncio.current_task()
    assert task is not None
    disconnected = False

    def cancel() -> None:
        nonlocal disconnected
        if not disconnected:
            disconnected = True
            task.cancel()

    watch = request.scope.get("extensions", {}).get(EXTENSION) or _Watcher(request)
    watch(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        watch(None)


class _Watcher:
    """Waits for the client's message that it has disconnected, where the server does not call back."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._on_disconnect: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def __call__(self, on_disconnect: Callable[[], None] | None) -> None:
        self._on_disconnect = on_disconnect
        if on_disconnect is None and self._task is not None:
            self._task.cancel()
        elif on_disconnect is not None:
            self._task = asyncio.ensure_future(self._wait())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._on_disconnect is None or task.cancelled():
            return
        task.exception()  # a connection that cannot be read any more counts, too
        self._on_disconnect()

    async def _wait(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

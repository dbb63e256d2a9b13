"""Stops work for clients that have disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed the connection before its answer was ready."""


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in the caller's own task, and cancels it as soon as the client disconnects. The body must have been
    read.

    Raises ClientDisconnected where that happened.
    """
    task = asyncio.current_task()
    assert task is not None
    disconnected = finished = False

    def cancel(watcher: asyncio.Task[None]) -> None:
        nonlocal disconnected
        if finished or watcher.cancelled():
            return
        disconnected = True
        watcher.exception()  # a connection that cannot be read any more counts, too
        task.cancel()

    watcher = asyncio.ensure_future(_wait_for_disconnect(request))
    watcher.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        finished = True
        watcher.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

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
    gone = over = False

    def cancel(watcher: asyncio.Task[None]) -> None:
        nonlocal gone
        if over or watcher.cancelled():
            return
        gone = True
        watcher.exception()  # a connection that cannot be read any more is gone too
        task.cancel()

    watcher = asyncio.ensure_future(_wait_for_disconnect(request))
    watcher.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        over = True
        watcher.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

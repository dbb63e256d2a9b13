"""Requests wait for their client's turn, where they have to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starlette.types import Scope

from manyhats.api.disconnect import EXTENSION, ClientDisconnected
from manyhats.api.middleware.content import is_upload
from manyhats.api.turns import Turn, Turns
from manyhats.core.call import Call
from manyhats.errors import DeadlineExceeded

_INPUT = 128  # bytes of a body that count as one input
_UNKNOWN = 64  # inputs of a body that does not say its length
_MOST = 4096  # inputs
_ASKS = frozenset({"POST", "PUT", "PATCH"})


def cost_of(scope: Scope, headers: Mapping[bytes, bytes]) -> int:
    """About how many inputs a request has, from what its head says."""
    length = headers.get(b"content-length")
    if scope["method"] not in _ASKS or is_upload(scope):
        return 1
    if length is None:
        return _UNKNOWN if b"transfer-encoding" in headers else 1
    return min(1 + int(length) // _INPUT, _MOST) if length.isdigit() and len(length) < 10 else _MOST


async def wait_for_turn(turns: Turns, turn: Turn, call: Call, scope: Scope) -> None:
    """Waits until a turn has come. Raises DeadlineExceeded where nobody would wait for the answer, and
    ClientDisconnected."""
    loop = asyncio.get_running_loop()
    come: asyncio.Future[None] = loop.create_future()

    def begin() -> None:
        if not come.done():
            come.set_result(None)

    def disconnected() -> None:
        if not come.done():
            come.set_exception(ClientDisconnected())

    turn.begin = begin
    watch = scope.get("extensions", {}).get(EXTENSION)
    if watch is not None:
        watch(disconnected)
    left = None if call.deadline is None else call.deadline - time.monotonic()
    try:
        async with asyncio.timeout(left):
            await come
    except TimeoutError:
        raise DeadlineExceeded("the request waited for its client's others until its time was over") from None
    finally:
        if watch is not None:
            watch(None)

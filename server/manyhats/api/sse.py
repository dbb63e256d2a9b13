"""Answers in chunks, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.core.sequence import Delta
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.service import Service
from manyhats.serving.threads import SMALL_OUTPUT, at_once_if

_EVENT = 32  # values: the cost of an event

DONE = b"data: [DONE]\n\n"

Events = Iterable[dict[str, Any]]


class EventStream(StreamingResponse):
    """Events as they come."""

    media_type = "text/event-stream"


class DeltaQueue:
    """What has come of a stream and is not sent yet. On the event loop alone.

    It has no limit of its own, as it needs none: it holds at most the deltas of the tokens that the request may have,
    and the request keeps all its tokens to its end anyway. A client that takes nothing of its answer is cut off by
    `send_timeout`; one that takes it slowly gets what has come meanwhile in one chunk.
    """

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, delta: Delta) -> None:
        """One more."""
        self._deltas.append(delta)
        self._changed.set()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._changed.set()

    async def get_all(self) -> list[Delta]:
        """All that have come since the last call, at least one; none at the end."""
        if not self._deltas and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        deltas, self._deltas = self._deltas, []
        return deltas


async def stream(
    request: Request,
    service: Service,
    inference: InferenceRequest,
    *,
    chunks: Callable[[Delta], Events],
    end: Callable[[InferenceResponse], Events],
    failure: Callable[[Exception], dict[str, Any]],
    done: bool = True,
) -> StreamingResponse:
    """Asks, and sends what `chunks` makes of each token and `end` of the whole; then `[DONE]`, where `done` says so.

    A failure before the first token is raised, so that it gets its status; a later one is an event made by `failure`.
    Where the client disconnects, its sequences are aborted within one pass.
    """
    queue = DeltaQueue()
    inference = replace(inference, listener=lambda delta: service.dispatcher.post(queue.put, delta))
    answer = asyncio.create_task(service.predict(inference))
    answer.add_done_callback(lambda _: queue.close())
    try:
        first = await cancel_on_disconnect(request, queue.get_all())
    except BaseException:
        answer.cancel()
        raise
    if not first:
        await answer  # raises what went wrong

    async def events() -> AsyncIterator[bytes]:
        started_choices: set[int] = set()

        def written(deltas: list[Delta]) -> bytes:
            return b"".join(_event(event) for delta in deltas for event in chunks(delta))

        def last(result: InferenceResponse) -> bytes:
            return b"".join(_event(event) for event in end(result)) + (DONE if done else b"")

        try:
            deltas = first
            while deltas:
                # The logprobs of a prompt may be many: no work for the event loop.
                new = {
                    delta.sequence.index for delta in deltas if delta.sequence.prompt_logprobs is not None
                } - started_choices
                started_choices |= new
                small = not new and len(deltas) * _EVENT <= SMALL_OUTPUT
                if data := await at_once_if(small, partial(written, deltas)):
                    yield data
                deltas = await queue.get_all()
            try:
                result = await answer
            except Exception as error:
                yield _event(failure(error))
                return
            yield await at_once_if(result.size <= SMALL_OUTPUT, lambda: last(result))
        finally:
            answer.cancel()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(events(), headers=headers)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"

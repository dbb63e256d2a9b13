"""Answers that come piece by piece, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.service import Service

if TYPE_CHECKING:
    from manyhats.engine.stream import Delta

DONE = b"data: [DONE]\n\n"

Events = Iterable[dict[str, Any]]


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
    Who hangs up frees the place within one pass.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Delta | None] = asyncio.Queue()

    def tell(delta: Delta) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, delta)

    answer = asyncio.create_task(service.predict(replace(inference, listener=tell)))
    answer.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        first = await cancel_on_disconnect(request, queue.get())
    except BaseException:
        answer.cancel()
        raise
    if first is None:
        await answer  # raises what went wrong

    async def events() -> AsyncIterator[bytes]:
        started_choices: set[int] = set()
        try:
            delta = first
            while delta is not None:
                scored = delta.stream.scores is not None and delta.stream.index not in started_choices
                started_choices.add(delta.stream.index)
                # what is told of a prompt's tokens may be much: no work for the event loop
                for event in await to_thread.run_sync(_made, chunks, delta) if scored else chunks(delta):
                    yield _event(event)
                delta = await queue.get()
            try:
                result = await answer
            except Exception as error:
                yield _event(failure(error))
                return
            for event in end(result):
                yield _event(event)
            if done:
                yield DONE
        finally:
            answer.cancel()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _made(chunks: Callable[[Delta], Events], delta: Delta) -> list[dict[str, Any]]:
    return list(chunks(delta))


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"

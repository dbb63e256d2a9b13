"""Tokenises and submits together what becomes ready in one turn of the event loop.

Clients that have just been answered ask again at once. Their texts are tokenised in one call, which the tokenizer may
spread over threads and whose code and tables then stay in the processor's cache, and reach the engine with one look at
its lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Many

from manyhats.core.sequence import Request
from manyhats.errors import ManyhatsError
from manyhats.serving.dispatch import Dispatcher
from manyhats.serving.inference import RequestState
from manyhats.serving.preparation import Preparation

Submit = Callable[[dict[int, Request]], dict[int, ManyhatsError]]


class PreparationQueue:
    """Of requests that one pass answers, and whose adapters are there. Only the event loop uses it.

    `submit`: gives requests to the engine, and says which are refused.
    """

    def __init__(self, preparation: Preparation, dispatcher: Dispatcher, submit: Submit) -> None:
        self._preparation = preparation
        self._dispatcher = dispatcher
        self._submit = submit
        self._waiting: list[tuple[RequestState, asyncio.Future[None]]] = []

    def put(self, state: RequestState) -> asyncio.Future[None]:
        """A future that is done when the engine has finished the request, or fails with why it was never submitted.
        Cancelled before, the request is left out."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((state, end))
        return end

    def _flush(self) -> None:
        taken = [(state, end) for state, end in self._waiting if not end.done()]
        self._waiting = []
        try:
            self._prepare_and_submit([state for state, _ in taken], [end for _, end in taken])
        except Exception as error:
            for _, end in taken:
                _fail(end, error)

    def _prepare_and_submit(self, states: Many[RequestState], ends: Many[asyncio.Future[None]]) -> None:
        requests: dict[int, Request] = {}
        for i, (error, end) in enumerate(zip(self._preparation.prepare_passes(states), ends, strict=True)):
            request = states[i].engine_request
            if error is not None:
                _fail(end, error)
            elif request is None:  # nothing would ever end it
                _fail(end, RuntimeError("a request was prepared without an error, and without anything to submit"))
            else:
                self._dispatcher.end_of(request.future, end)
                requests[i] = request
        for i, refused in self._submit(requests).items():
            states[i].engine_request = None
            _fail(ends[i], refused)


def _fail(end: asyncio.Future[None], error: Exception) -> None:
    if not end.done():
        end.set_exception(error)

"""Requests of the server's own, which wait behind all others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from manyhats.core.call import CURRENT_CALL, Call, Caller
from manyhats.errors import ManyhatsError
from manyhats.registry.records import LOWEST
from manyhats.serving.inference import InferenceRequest, InferenceResponse, RequestState

Answers = Callable[
    [Sequence[InferenceRequest], dict[int, RequestState]], Awaitable[list[InferenceResponse | ManyhatsError]]
]
_CALLER = Caller(tenant="(background)", weight=0.1)  # takes no share of the callers'


class Background:
    """Answers requests that no client waits for, with the lowest priority. They are not counted among the answers.

    `open`, `answers`, `close`: a service's steps.
    """

    def __init__(
        self,
        open: Callable[[InferenceRequest], RequestState],
        answers: Answers,
        close: Callable[[RequestState], None],
    ) -> None:
        self._open = open
        self._answers = answers
        self._close = close

    async def ask(self, request: InferenceRequest) -> InferenceResponse:
        """The answer. Raises ManyhatsError. It is to be called in a task of its own, whose call it replaces."""
        CURRENT_CALL.set(Call(id=CURRENT_CALL.get().id, caller=_CALLER))
        one = self._open(request)
        one.settings = one.settings.model_copy(update={"priority": LOWEST})
        try:
            (answer,) = await self._answers([request], {0: one})
        finally:
            self._close(one)
        if isinstance(answer, ManyhatsError):
            raise answer
        return answer

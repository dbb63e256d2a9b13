"""Room in the engine's queue for a request, kept before it is tokenised: what is refused costs nearly nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping

from manyhats.core.call import Call
from manyhats.core.sequence import Request, Reservation
from manyhats.engine.engine import Engine
from manyhats.errors import DeadlineExceeded, ManyhatsError, Overloaded
from manyhats.serving.inference import Limits, RequestState

_CHARACTERS_A_TOKEN = 4  # of most texts
_EARLY = 0.01  # seconds: a timer of the event loop may come so much before its time


def reserve(engine: Engine, limits: Limits, one: RequestState, cost: int) -> ManyhatsError | None:
    """Keeps room for a request, or says why there is none. `cost`: of preparing it, in characters."""
    left = limits.seconds_left(one.call)
    if left <= 0:
        return late(limits, one.call)
    count = one.sequences
    tokens = min(cost / _CHARACTERS_A_TOKEN, count * engine.backbone.max_tokens)
    wanted = Reservation(one.call.flow, one.version.task, count, tokens)
    try:
        engine.reserve(wanted, left)
    except ManyhatsError as error:
        return error
    one.reservation = wanted
    return None


def submit(engine: Engine, requests: Mapping[int, Request]) -> dict[int, ManyhatsError]:
    """Submits all together, or as many as fit in the queues; the errors of the others."""
    if not requests:
        return {}
    try:
        engine.submit(list(requests.values()))
    except Overloaded:
        refused: dict[int, ManyhatsError] = {}
        for i, request in requests.items():
            try:
                engine.submit([request])
            except ManyhatsError as error:
                refused[i] = error
        return refused
    except ManyhatsError as error:
        return dict.fromkeys(requests, error)
    return {}


def give_back(engine: Engine, one: RequestState) -> None:
    """What was kept for a request that has not been submitted."""
    if one.reservation is not None and one.reservation.count:
        engine.give_back(one.reservation)


def late(limits: Limits, call: Call) -> DeadlineExceeded:
    """There is no answer in time."""
    if call.deadline is not None and call.deadline <= time.monotonic() + _EARLY:
        return DeadlineExceeded("no answer within the time that the request gives")
    return DeadlineExceeded(f"no answer within {limits.timeout:g} s")

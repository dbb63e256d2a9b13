"""Where work runs: small work on the event loop, other work in threads, with a limit for each type of work.

A thread's result takes 0.1 ms when idle; while the model computes, each of the two thread switches waits for the
interpreter's lock, up to 5 ms. Work that takes less is done at once. The limits of small work are set so that the worst
content of that size takes the event loop about 2 ms (measured on one core of a server), and usual content a tenth of
it.

Other work uses anyio's default threads: parsing bodies, and rendering answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

P = ParamSpec("P")
T = TypeVar("T")

SMALL_BODY = 16 << 10  # bytes of JSON to parse: 0.2 ms
SMALL_REQUESTS = 8  # requests of one call to look up, each perhaps with a search for the nearest name
SMALL_TEXT = 2048  # characters to tokenise: 0.5 ms for English, 1.8 ms where each is a token
SMALL_OUTPUT = 2048  # values to render, or to write as JSON: 0.3 ms for an embedding's numbers

_ADMIN = 4
_RECEIVING = 4
_FETCHING = 8


def tokenising_limit() -> CapacityLimiter:
    """The limit for tokenisation: more threads than CPUs would not help."""
    return CapacityLimiter(max(os.cpu_count() or 1, 2))


class ThreadLimits:
    """The limits for changes of the store. `checking`: how many uploads are unpacked and checked at once."""

    def __init__(self, *, checking: int) -> None:
        self.admin = CapacityLimiter(_ADMIN)  # settings, aliases, deletions
        self.receiving = CapacityLimiter(_RECEIVING)  # disk access of uploads and downloads
        self.checking = CapacityLimiter(checking)
        self.fetching = CapacityLimiter(_FETCHING)  # downloads from sources, which wait for others
        self.tokenising = tokenising_limit()  # without a pass


async def in_thread(limiter: CapacityLimiter, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Runs a blocking function in a thread, and waits for it even when cancelled."""
    return await to_thread.run_sync(partial(work, *given, **named), abandon_on_cancel=False, limiter=limiter)


async def at_once_if(small: bool, work: Callable[[], T], limiter: CapacityLimiter | None = None) -> T:
    """The result of `work`: on the event loop where it is small, else from a thread."""
    if small:
        return work()
    return await to_thread.run_sync(work, abandon_on_cancel=False, limiter=limiter)

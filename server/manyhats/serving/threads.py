"""Where work runs: what is small on the event loop at once, what is not in threads, of which each kind has its own.

To hand work to a thread and get its result back takes 0.1 ms where nothing else runs; while the model computes, each of
the two changes waits for the interpreter, up to 5 ms. What takes less than that is done at once. The limits of what is
small are set so that the worst content of that size takes the event loop about 2 ms (measured on one core of a
server), and usual content a tenth of it.

What has no limit of its own here has anyio's threads: bodies are parsed there, and answers are put together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

P = ParamSpec("P")
T = TypeVar("T")

SMALL_BODY = 16 << 10  # bytes of JSON that are parsed: 0.2 ms
SMALL_REQUESTS = 8  # requests of one call whose tasks are looked up, each perhaps with a search for the nearest name
SMALL_TEXT = 2048  # characters that are tokenised: 0.5 ms for English, 1.8 ms where each is a token
SMALL_OUTPUT = 2048  # values that are rendered, or written as JSON: 0.3 ms for an embedding's numbers

_ADMIN = 4
_RECEIVING = 4


def tokenising_limit() -> CapacityLimiter:
    """For texts that are tokenised: more threads than there are CPUs only take turns."""
    return CapacityLimiter(max(os.cpu_count() or 1, 2))


class ThreadLimits:
    """The limits of what changes the store. `checking`: how many uploads are unpacked and checked at once."""

    def __init__(self, *, checking: int) -> None:
        self.admin = CapacityLimiter(_ADMIN)  # settings, aliases, deletions
        self.receiving = CapacityLimiter(_RECEIVING)  # writes what uploads and downloads move
        self.checking = CapacityLimiter(checking)


async def in_thread(limiter: CapacityLimiter, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The result of a function that blocks, from a thread of a limited kind; it is waited for whatever happens."""
    return await to_thread.run_sync(partial(work, *given, **named), abandon_on_cancel=False, limiter=limiter)


async def at_once_if(small: bool, work: Callable[[], T], limiter: CapacityLimiter | None = None) -> T:
    """The result of `work`: on the event loop where it is small, else from a thread, and waited for."""
    if small:
        return work()
    return await to_thread.run_sync(work, abandon_on_cancel=False, limiter=limiter)

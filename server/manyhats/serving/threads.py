"""How many threads each kind of work may have, so that none takes those of another.

What is not limited here has anyio's own threads: bodies are parsed there, and answers are put together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

P = ParamSpec("P")
T = TypeVar("T")

_ADMIN = 4
_RECEIVING = 4


def tokenising_limit() -> CapacityLimiter:
    """For texts that are tokenised: more threads than there are CPUs only take turns."""
    return CapacityLimiter(max(os.cpu_count() or 1, 2))


class ThreadLimits:
    """The limits of what changes the store. `checking`: most uploads that are unpacked and checked at once."""

    def __init__(self, *, checking: int) -> None:
        self.admin = CapacityLimiter(_ADMIN)  # settings, aliases, deletions
        self.receiving = CapacityLimiter(_RECEIVING)  # writes what uploads and downloads move
        self.checking = CapacityLimiter(checking)


async def in_thread(limiter: CapacityLimiter, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The result of a function that blocks, from a thread of a limited kind; it is waited for whatever happens."""
    return await to_thread.run_sync(partial(work, *given, **named), abandon_on_cancel=False, limiter=limiter)

"""Questions to tasks by Zipf's law: as fast as they are answered, or at a rate whoever waits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from soak.asking import Asker
from soak.changes import Changes
from soak.questions import Question, Work

MOST_UNDER_WAY = 384  # requests; further ones are held back and counted, as a client with a bound would


class Chooser:
    """Which tasks are asked, and what. The first of `changes.tasks` are asked most."""

    def __init__(self, changes: Changes, work: Work, pick: random.Random) -> None:
        self._changes = changes
        self._work = work
        self._pick = pick
        self._weights = [1 / (i + 1) for i in range(len(changes.tasks))]

    def question(self) -> Question:
        """The next one."""
        drawn = self._pick.choices(self._changes.tasks, self._weights, k=3)
        # All tasks of a question are of one kind of answers, so that its parameters are for all of them.
        return self._work.ask(self._pick, [(self._changes.name(task), task.kind) for task in drawn])


async def closed_loop(asker: Asker, chooser: Chooser, connections: int, seconds: float) -> float:
    """Each connection asks again when it has its answer. Answers a second."""
    begin, count = time.perf_counter(), 0

    async def keep_asking() -> None:
        nonlocal count
        while time.perf_counter() - begin < seconds:
            await asker.ask(chooser.question())
            count += 1

    await asyncio.gather(*(keep_asking() for _ in range(connections)))
    return count / (time.perf_counter() - begin)


async def open_loop(asker: Asker, chooser: Chooser, rate: float, end: float, held_back: Callable[[], None]) -> None:
    """So many questions a second, at random times, until `end` of perf_counter(), and waits for the last answers."""
    under_way: set[asyncio.Task[None]] = set()
    pick = random.Random(1)
    due = time.perf_counter()
    while due < end:
        due += pick.expovariate(rate)
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(under_way) >= MOST_UNDER_WAY:
            held_back()
            await asyncio.sleep(0)
            continue
        job = asyncio.create_task(asker.ask(chooser.question()))
        under_way.add(job)
        job.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)

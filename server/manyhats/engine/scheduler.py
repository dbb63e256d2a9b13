"""Which rows go into the next batch: oldest first, with a share for every task."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from manyhats.engine.work import Item, Work
from manyhats.errors import Overloaded


class Scheduler:
    """A queue for every task. Not thread-safe: the engine calls it under its lock.

    `batch_tokens`: the most tokens of one batch (a single longer row still goes alone). `task_limit`, `total_limit`:
    the most rows that may wait, of one task and of all.
    """

    def __init__(self, *, batch_tokens: int, task_limit: int, total_limit: int) -> None:
        self.batch_tokens = batch_tokens
        self.task_limit = task_limit
        self.total_limit = total_limit
        self._queues: dict[str, deque[Item]] = {}
        self._waiting: dict[str, int] = {}
        self.total = 0

    def waiting(self) -> dict[str, int]:
        """Rows that wait, by task."""
        return dict(self._waiting)

    def admit(self, counts: Iterable[tuple[str, int]]) -> None:
        """Raises Overloaded where more rows of some tasks do not all fit in their queues."""
        more: dict[str, int] = {}
        for task, count in counts:
            more[task] = more.get(task, 0) + count
        if self.total + sum(more.values()) > self.total_limit:
            raise Overloaded(
                f"{self.total} inputs are waiting and {sum(more.values())} would join; "
                f"at most {self.total_limit} may wait"
            )
        for task, count in more.items():
            waiting = self._waiting.get(task, 0)
            if waiting + count > self.task_limit:
                raise Overloaded(
                    f"{waiting} inputs of the task `{task}` are waiting and {count} would join; "
                    f"at most {self.task_limit} may wait"
                )

    def add(self, work: Work) -> None:
        """Puts all rows of a work in its task's queue."""
        self._queues.setdefault(work.task, deque()).extend(Item(work, i) for i in range(len(work.rows)))
        self._count(work.task, len(work.rows))

    def remove(self, work: Work) -> None:
        """Takes out the rows of a work that nobody waits for any more."""
        queue = self._queues.get(work.task)
        if queue is None or not work.waiting:
            return
        kept = deque(item for item in queue if item.work is not work)
        self._count(work.task, len(kept) - len(queue))
        self._replace(work.task, kept)

    def next_batch(self) -> list[Item]:
        """The rows of the next batch; empty where nothing waits.

        Every waiting task gets an equal share of the token budget, and what is left over goes to the oldest. The
        oldest row of all is always taken, so no task waits for ever.
        """
        oldest = sorted(self._queues, key=lambda task: self._queues[task][0].work.due)
        chosen: list[Item] = []
        left = self.batch_tokens
        share = self.batch_tokens // max(len(oldest), 1)
        for allowance in (share, self.batch_tokens):
            for task in oldest:
                queue = self._queues.get(task)
                mine = allowance
                while queue and (not chosen or queue[0].tokens <= min(left, mine)):
                    item = queue.popleft()
                    item.work.waiting -= 1
                    chosen.append(item)
                    left -= item.tokens
                    mine -= item.tokens
        for task in {item.work.task for item in chosen}:
            self._replace(task, self._queues[task])
        for item in chosen:
            self._count(item.work.task, -1)
        return chosen

    def _replace(self, task: str, queue: deque[Item]) -> None:
        if queue:
            self._queues[task] = queue
        else:
            del self._queues[task]

    def _count(self, task: str, change: int) -> None:
        self.total += change
        count = self._waiting.get(task, 0) + change
        if count:
            self._waiting[task] = count
        else:
            self._waiting.pop(task, None)

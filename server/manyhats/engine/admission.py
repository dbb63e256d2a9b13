"""Counts the waiting sequences by task, and refuses requests above the limits."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many

from manyhats.core.sequence import Request, Sequence
from manyhats.errors import Overloaded


class Admission:
    """Counts waiting sequences. Not thread-safe: the engine calls it under its lock, so every method is short.

    `task_limit`, `total_limit`: how many sequences of one task, and of all tasks, may wait at most.
    """

    def __init__(self, *, task_limit: int, total_limit: int) -> None:
        self.task_limit = task_limit
        self.total_limit = total_limit
        self.total = 0
        self._waiting: dict[str, int] = {}

    def waiting(self) -> dict[str, int]:
        """The number of waiting sequences by task. At most `total_limit` tasks, or a few more after preemptions."""
        return dict(self._waiting)

    def admit(self, requests: Many[Request]) -> None:
        """Adds all requests to the counts, or none. Raises Overloaded where a limit would be exceeded."""
        added: dict[str, int] = {}
        for request in requests:
            added[request.task] = added.get(request.task, 0) + len(request.sequences)
        joining = sum(added.values())
        if self.total + joining > self.total_limit:
            raise Overloaded(
                f"{self.total} inputs are waiting and {joining} would join; at most {self.total_limit} may wait"
            )
        for task, count in added.items():
            waiting = self._waiting.get(task, 0)
            if waiting + count > self.task_limit:
                raise Overloaded(
                    f"{waiting} inputs of the task `{task}` are waiting and {count} would join; "
                    f"at most {self.task_limit} may wait"
                )
        for request in requests:
            request.waiting = len(request.sequences)
            self._count(request.task, request.waiting)

    def mark_scheduled(self, sequences: Iterable[Sequence]) -> None:
        """Sequences that were scheduled wait no longer."""
        for request in (sequence.request for sequence in sequences):
            if request.waiting:  # 0 where the request was removed meanwhile
                request.waiting -= 1
                self._count(request.task, -1)

    def mark_waiting(self, sequences: Iterable[Sequence]) -> None:
        """Preempted sequences wait again."""
        for request in (sequence.request for sequence in sequences):
            if not request.future.done():
                request.waiting += 1
                self._count(request.task, 1)

    def remove(self, request: Request) -> None:
        """The request is finished or aborted: its sequences are no longer counted."""
        if not request.waiting:
            return
        self._count(request.task, -request.waiting)
        request.waiting = 0

    def _count(self, task: str, change: int) -> None:
        self.total += change
        count = self._waiting.get(task, 0) + change
        if count:
            self._waiting[task] = count
        else:
            self._waiting.pop(task, None)

"""How many sequences wait, by task, and how many may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Many

from manyhats.core.sequence import Request, Sequence
from manyhats.errors import Overloaded


class Admission:
    """Counts of what waits. Not thread-safe: the engine calls it under its lock, and nothing here takes long.

    `task_limit`, `total_limit`: the most sequences that may wait, of one task and of all.
    """

    def __init__(self, *, task_limit: int, total_limit: int) -> None:
        self.task_limit = task_limit
        self.total_limit = total_limit
        self.total = 0
        self._waiting: dict[str, int] = {}

    def waiting(self) -> dict[str, int]:
        """Sequences that wait, by task: of as many tasks as `total_limit` at most, or where many gave their blocks up
        a few more."""
        return dict(self._waiting)

    def admit(self, requests: Many[Request]) -> None:
        """Counts requests in, all or none. Raises Overloaded where they do not all fit."""
        more = Counter[str]()
        for request in requests:
            more[request.task] += len(request.sequences)
        if self.total + more.total() > self.total_limit:
            raise Overloaded(
                f"{self.total} inputs are waiting and {more.total()} would join; at most {self.total_limit} may wait"
            )
        for task, count in more.items():
            waiting = self._waiting.get(task, 0)
            if waiting + count > self.task_limit:
                raise Overloaded(
                    f"{waiting} inputs of the task `{task}` are waiting and {count} would join; "
                    f"at most {self.task_limit} may wait"
                )
        for request in requests:
            request.waiting = len(request.sequences)
            self._count(request.task, request.waiting)

    def placed(self, sequences: Iterable[Sequence]) -> None:
        """These wait no more."""
        for request in (sequence.request for sequence in sequences):
            if request.waiting:  # else it was forgotten
                request.waiting -= 1
                self._count(request.task, -1)

    def displaced(self, sequences: Iterable[Sequence]) -> None:
        """These had their place, and wait again."""
        for request in (sequence.request for sequence in sequences):
            if not request.future.done():
                request.waiting += 1
                self._count(request.task, 1)

    def forget(self, request: Request) -> None:
        """Nobody waits for this request any more."""
        self._count(request.task, -request.waiting)
        request.waiting = 0

    def _count(self, task: str, change: int) -> None:
        self.total += change
        count = self._waiting.get(task, 0) + change
        if count:
            self._waiting[task] = count
        else:
            self._waiting.pop(task, None)

"""Counts the waiting sequences by task and tenant, and refuses requests above the limits, before they cost anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from typing import NamedTuple

from manyhats.core.sequence import Request, Reservation, Sequence
from manyhats.errors import Overloaded

_OF_FREE = 8  # times the room that is left: what one tenant may have waiting
_LONGEST_RETRY = 60.0  # seconds
_LATE = 2.0  # times the time that is left: so long a wait is taken for one that ends too late


class Rates(NamedTuple):
    """What recent passes did in a second of theirs; 0 before the first."""

    sequences: float
    tokens: float


class Admission:
    """Counts waiting sequences. Not thread-safe: the engine calls it under its lock, so every method is short.

    `task_limit`, `total_limit`: how many sequences of one task, and of all tasks, may wait at most. A tenant may have
    eight times as many waiting as there is room left (dynamic queue thresholds, Choudhury and Hahne, 1998), so that no
    one fills the queue for the others. `rates`: of recent passes.
    """

    def __init__(
        self, *, task_limit: int, total_limit: int, rates: Callable[[], Rates] = lambda: Rates(0.0, 0.0)
    ) -> None:
        self.task_limit = task_limit
        self.total_limit = total_limit
        self.total = 0  # submitted sequences that wait
        self.reserved = 0  # those that will be submitted
        self._rates = rates
        self._waiting: dict[str, int] = {}
        self._reserved: dict[str, int] = {}  # by task
        self._of_tenant: dict[str, int] = {}  # submitted and reserved
        self._tokens: dict[str, float] = {}  # the same, in tokens as estimated

    def waiting(self) -> dict[str, int]:
        """The number of waiting sequences by task. At most `total_limit` tasks, or a few more after preemptions."""
        return dict(self._waiting)

    def reserve(self, wanted: Reservation, seconds_left: float) -> None:
        """Keeps room for a request. Raises Overloaded where there is none, or where it would run far too late."""
        tenant, count = wanted.tenant, wanted.count
        self._check(tenant, wanted.task, count, count)
        if ahead := self._tokens.get(tenant):
            self._check_wait(ahead, seconds_left)
        self.reserved += count
        self._reserved[wanted.task] = self._reserved.get(wanted.task, 0) + count
        self._count_tenant(tenant, count, wanted.tokens)

    def give_back(self, reservation: Reservation) -> None:
        """What was kept is not needed, or needed no longer. Once more does nothing."""
        self.reserved -= reservation.count
        _change(self._reserved, reservation.task, -reservation.count)
        self._count_tenant(reservation.tenant, -reservation.count, -reservation.tokens)
        reservation.count, reservation.tokens = 0, 0.0

    def admit(self, requests: Many[Request]) -> None:
        """Adds all requests to the counts, or none. Raises Overloaded where a limit would be exceeded."""
        new = [one for one in requests if one.reservation is None]
        if new:
            added: dict[tuple[str, str], int] = {}
            for request in new:
                key = request.tenant, request.task
                added[key] = added.get(key, 0) + len(request.sequences)
            joining = sum(added.values())
            for (tenant, task), count in added.items():
                self._check(tenant, task, count, joining)
        for request in requests:
            count = request.waiting = len(request.sequences)
            if (kept := request.reservation) is None:
                self._count(request, count)
                continue
            # What was kept stays counted for the tenant.
            request.expected_tokens = kept.tokens / count
            self.reserved -= kept.count
            _change(self._reserved, request.task, -kept.count)
            self.total += count
            self._waiting[request.task] = self._waiting.get(request.task, 0) + count
            if count != kept.count:
                self._count_tenant(request.tenant, count - kept.count, 0.0)
            kept.count, kept.tokens = 0, 0.0

    def mark_scheduled(self, sequences: Iterable[Sequence]) -> None:
        """Sequences that were scheduled wait no longer."""
        for request in (sequence.request for sequence in sequences):
            if request.waiting:  # 0 where the request was removed meanwhile
                request.waiting -= 1
                self._count(request, -1)

    def mark_waiting(self, sequences: Iterable[Sequence]) -> None:
        """Preempted sequences wait again."""
        for request in (sequence.request for sequence in sequences):
            if not request.future.done():
                request.waiting += 1
                self._count(request, 1)

    def remove(self, request: Request) -> None:
        """The request is finished or aborted: its sequences are no longer counted."""
        if not request.waiting:
            return
        self._count(request, -request.waiting)
        request.waiting = 0

    # ---- limits

    def _check(self, tenant: str, task: str, count: int, joining: int) -> None:
        """`count`: of this task; `joining`: of all that come together."""
        together = self.total + self.reserved
        if (excess := together + joining - self.total_limit) > 0:
            raise Overloaded(
                f"{together} inputs are waiting and {joining} would join; at most {self.total_limit} may wait",
                retry_after=_until_free(excess, self._rates().sequences),
            )
        waiting = self._waiting.get(task, 0) + self._reserved.get(task, 0)
        if (excess := waiting + count - self.task_limit) > 0:
            raise Overloaded(
                f"{waiting} inputs of the task `{task}` are waiting and {count} would join; "
                f"at most {self.task_limit} may wait",
                retry_after=_until_free(excess, self._rates().sequences / max(len(self._waiting), 1)),
            )
        own = self._of_tenant.get(tenant, 0)
        allowed = _OF_FREE * (self.total_limit - together)
        if (excess := own + count - allowed) > 0:
            raise Overloaded(
                f"{own} inputs of this client are waiting and {count} would join; at most {allowed} of one client may "
                "wait now, so that there is room for others",
                retry_after=_until_free(excess, self._rates().sequences / max(len(self._of_tenant), 1)),
            )

    def _check_wait(self, ahead: float, seconds_left: float) -> None:
        """Raises Overloaded where so many tokens, which wait for the tenant, take far longer than anybody waits for the
        answer."""
        rate = self._rates().tokens / max(len(self._of_tenant), 1)
        if not rate or ahead / rate < _LATE * max(seconds_left, 1.0):
            return
        raise Overloaded(
            f"what waits for this client takes about {ahead / rate:.0f} s, and the answer is wanted within "
            f"{seconds_left:.3g} s",
            retry_after=_until_free(ahead - seconds_left * rate, rate),
        )

    # ---- counts

    def _count(self, request: Request, change: int) -> None:
        self.total += change
        _change(self._waiting, request.task, change)
        self._count_tenant(request.tenant, change, change * request.expected_tokens)

    def _count_tenant(self, tenant: str, change: int, tokens: float) -> None:
        count = self._of_tenant.get(tenant, 0) + change
        if count:
            self._of_tenant[tenant] = count
            if tokens:
                self._tokens[tenant] = self._tokens.get(tenant, 0.0) + tokens
        else:
            self._of_tenant.pop(tenant, None)
            self._tokens.pop(tenant, None)


def _change(counts: dict[str, int], key: str, change: int) -> None:
    count = counts.get(key, 0) + change
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


def _until_free(excess: float, rate: float) -> float:
    """Seconds until so much less waits, at a rate: 1 to 60; 1 where the rate is not known."""
    return min(max(excess / rate if rate else 0.0, 1.0), _LONGEST_RETRY)

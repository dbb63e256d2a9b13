"""Which replica a request goes to: its task's own, while that has room; then one that holds the task; then another.

Each task has an order of the replicas of its own (rendezvous hashing), so that a replica that comes or goes moves only
the tasks that were, or are then, its own. The first of the order is the task's home. A home with more to do than its
share passes requests on (consistent hashing with bounded loads), first to replicas that hold the task already; what
they cannot take either makes one more replica a holder, and so a hot task spreads as far as it has to.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Load:
    """What is known of a replica: the requests that it has not answered yet, and the tasks whose adapters it holds."""

    ongoing: int = 0
    holds: frozenset[str] = frozenset()


class Affinity:
    """Ranks replicas for a request.

    A replica has room while it has fewer requests than `slack`, or fewer than `spread` times the mean of all: below
    `slack` requests a batch is not full yet, and spreading would gain nothing.
    """

    def __init__(self, spread: float = 1.25, slack: int = 8, rng: random.Random | None = None) -> None:
        self.spread = spread
        self.slack = slack
        self._rng = rng or random.Random()

    def ranked(self, task: str | None, replicas: Mapping[str, Load]) -> list[list[str]]:
        """The replicas by preference, each once; those of one list are as good as each other but for their queues."""
        if not replicas:
            return []
        if task is None:
            return _ranks([self._two(list(replicas)), list(replicas)])
        order = preference(task, tuple(sorted(replicas)))
        ongoing = [load.ongoing for load in replicas.values()]
        bound = max(self.slack, self.spread * (sum(ongoing) + 1) / len(ongoing))
        if replicas[order[0]].ongoing < bound:
            return _ranks([order[:1], [one for one in order if task in replicas[one].holds], order])
        room = [one for one in order if replicas[one].ongoing < bound]
        holders = self._two([one for one in room if task in replicas[one].holds])
        return _ranks([holders, room[:1], sorted(order, key=lambda one: replicas[one].ongoing)])

    def _two(self, among: Sequence[str]) -> list[str]:
        """Two at random, of which the shorter queue gets the request: several routers do not all choose the same."""
        return self._rng.sample(list(among), min(2, len(among)))


@lru_cache(maxsize=16384)
def preference(task: str, replicas: tuple[str, ...]) -> tuple[str, ...]:
    """The task's own order of the replicas. The same everywhere, for the same names."""
    return tuple(sorted(replicas, key=lambda one: blake2b(f"{task}\0{one}".encode(), digest_size=8).digest()))


class Holdings:
    """The tasks that replicas hold: as each says now and then, and what was sent to it since."""

    _MOST = 4096  # tasks of one replica that are believed between two reports

    def __init__(self) -> None:
        self._reported: dict[str, tuple[object, frozenset[str]]] = {}
        self._sent: dict[str, set[str]] = {}

    def of(self, replica: str, report: Mapping[str, object]) -> frozenset[str]:
        """What a replica holds. `report`: what it said last; the same object until it says something new."""
        known = self._reported.get(replica)
        if known is None or known[0] is not report:
            holds = report.get("holds", ())
            assert isinstance(holds, Sequence)
            known = self._reported[replica] = (report, frozenset(holds))
            self._sent.pop(replica, None)
        sent = self._sent.get(replica)
        return known[1] | sent if sent else known[1]

    def sent(self, replica: str, task: str) -> None:
        """A request for `task` went to a replica: it holds it soon."""
        sent = self._sent.setdefault(replica, set())
        if len(sent) < self._MOST:
            sent.add(task)

    def keep(self, replicas: Mapping[str, object]) -> None:
        """Forgets all others."""
        for known in (self._reported, self._sent):
            for gone in [one for one in known if one not in replicas]:
                del known[gone]


def _ranks(preferred: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each replica once, where it comes first."""
    seen: set[str] = set()
    ranks = []
    for rank in preferred:
        new = [one for one in rank if one not in seen]
        seen.update(new)
        if new:
            ranks.append(new)
    return ranks

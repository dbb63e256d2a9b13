"""Who comes first in a pass: tenants by what they have got for their weight, and each one's tasks likewise.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), which are weighted fair
queueing (Demers, Keshav, Shenker, 1989) with tokens for bits: each tenant has a counter of the tokens that ran for it,
those of prompts and those that were generated, divided by its weight. The lowest goes first. Who comes back begins no
lower than the lowest of those who are there, so that nobody saves up by staying away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from manyhats.core.fair_use import RecentUse

K = TypeVar("K", bound=Hashable)

_MAX_AWAY = 4096  # counters of those who are not there


class TaskKey(NamedTuple):
    """The tenant and the task that a share of the token budget belongs to."""

    tenant: str
    task: str


@dataclass(slots=True)
class ShareBudget:
    """What is left of a share of the token budget. `tokens`: of the current task; `used`: whether any task has spent
    tokens. Before that, the oldest sequence may exceed the share, so that it is always scheduled."""

    tokens: int
    used: bool = False

    def spend(self, tokens: int) -> None:
        """Takes tokens off the share."""
        self.tokens -= tokens
        self.used = True


class VirtualTime(Generic[K]):
    """Counters of tokens over weight, of those who have work, and of those who left with more than they."""

    def __init__(self) -> None:
        self._here: dict[K, float] = {}
        self._away: dict[K, float] = {}

    def present(self, keys: Iterable[K]) -> None:
        """Who has work now. Who was not there before is lifted to the lowest of the others."""
        keys = dict.fromkeys(keys)
        if keys.keys() == self._here.keys():
            return
        before, self._here = self._here, {key: self._here[key] for key in keys if key in self._here}
        self._away |= {key: value for key, value in before.items() if key not in keys}
        lowest = min(self._here.values() or before.values(), default=0.0)
        for key in keys:
            if key not in self._here:
                self._here[key] = max(self._away.pop(key, 0.0), lowest)
        if not keys:
            self._away = {}
            return
        self._away = {key: value for key, value in self._away.items() if value > lowest}
        while len(self._away) > _MAX_AWAY:
            del self._away[next(iter(self._away))]

    def charge(self, key: K, amount: float) -> None:
        """So much has run for somebody."""
        if key in self._here:
            self._here[key] += amount

    def __getitem__(self, key: K) -> float:
        return self._here.get(key, 0.0)


class FairShares:
    """What has run for each tenant and task. Only the model's thread uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._tenants: VirtualTime[str] = VirtualTime()
        self._tasks: dict[str, VirtualTime[str]] = {}
        self._recent_tenants: RecentUse[str] = RecentUse(clock=clock)
        self._recent_tasks: RecentUse[TaskKey] = RecentUse(dominated=True, clock=clock)
        self._went_ahead = False  # whether the last pass was theirs alone who ask for little

    def present(self, keys: Iterable[TaskKey]) -> None:
        """Who has work now."""
        tasks: dict[str, list[str]] = {}
        for key in keys:
            tasks.setdefault(key.tenant, []).append(key.task)
        self._tenants.present(tasks)
        for tenant in self._tasks.keys() - tasks.keys():
            del self._tasks[tenant]
        for tenant, own in tasks.items():
            if tenant not in self._tasks:
                self._tasks[tenant] = VirtualTime()
            self._tasks[tenant].present(own)

    def charge(self, tokens: Mapping[TaskKey, float], weights: Mapping[str, float]) -> None:
        """So many tokens of each run in a pass."""
        for key, count in tokens.items():
            weighted = count / weights[key.tenant]
            self._tenants.charge(key.tenant, weighted)
            if (own := self._tasks.get(key.tenant)) is not None:
                own.charge(key.task, count)
            self._recent_tenants.add(key.tenant, weighted)
            self._recent_tasks.add(key, weighted)

    def tenant(self, key: TaskKey) -> float:
        """The counter of a key's tenant: the lowest is next."""
        return self._tenants[key.tenant]

    def both(self, key: TaskKey) -> tuple[float, float]:
        """The counters of a key's tenant, and of its task among the tenant's: the lowest is next."""
        return self._tenants[key.tenant], self._tasks[key.tenant][key.task] if key.tenant in self._tasks else 0.0

    def crowded(self) -> bool:
        """Whether somebody who asks for little would wait for the full passes of somebody who asks for much."""
        return self._recent_tenants.crowded() or self._recent_tasks.crowded()

    def ahead(self, keys: Collection[TaskKey], fits: Callable[[TaskKey], bool]) -> Collection[TaskKey]:
        """Whose pass is next: all keys, or those alone who ask for little beside others who ask for much.

        `fits`: whether all that one waits for fits into a pass; else that is not little. Every second pass is for all,
        so that nobody waits for ever.
        """
        if self._went_ahead:
            self._went_ahead = False
            return keys
        light = [key for key in keys if self._is_light(key) and fits(key)]
        self._went_ahead = 0 < len(light) < len(keys)
        return light if self._went_ahead else keys

    def _is_light(self, key: TaskKey) -> bool:
        return self._recent_tenants.is_light(key.tenant) or self._recent_tasks.is_light(key)

"""Watches the aliases that are rolled out: asks their shadows, and withdraws the canaries that pass a bound."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from anyio import CapacityLimiter

from manyhats.core.call import CURRENT_CALL
from manyhats.errors import ManyhatsError
from manyhats.registry.audit import CANARY
from manyhats.registry.names import parse_ref
from manyhats.registry.records import Target, Task, Version
from manyhats.registry.registry import Registry
from manyhats.registry.rollout import Rollout
from manyhats.serving.canary import CanaryWindow, is_fault
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.shadow import ShadowCounts, ShadowTraffic
from manyhats.serving.threads import in_thread

logger = logging.getLogger(__name__)

MAX_WATCHED = 256  # aliases whose counts are kept; the one that was asked longest ago begins anew
_RETRY = 5.0  # seconds until a withdrawal that the store refused is tried again


@dataclass(slots=True)
class Watch:
    """What is counted of one alias. `since`: unix seconds."""

    rollout: Rollout
    targets: tuple[Target, ...]
    since: float
    shadow: ShadowCounts
    canary: CanaryWindow | None
    not_before: float = 0.0  # of a withdrawal, by the clock


class Rollouts:
    """All that is rolled out. Only the event loop uses it, but for what says otherwise. `clock`: in seconds.

    `limiter`: of the threads that change the store.
    """

    def __init__(
        self,
        registry: Registry,
        shadows: ShadowTraffic,
        limiter: CapacityLimiter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._shadows = shadows
        self._limiter = limiter
        self._clock = clock
        self._watches: OrderedDict[tuple[str, str], Watch] = OrderedDict()
        self._withdrawing: set[asyncio.Task[None]] = set()
        self.withdrawals = 0  # so far

    def answered(self, request: InferenceRequest, version: Version, answer: InferenceResponse | ManyhatsError) -> None:
        """A request to a task with a rollout has been answered by a version, or failed."""
        alias = parse_ref(request.task).alias
        task = self._registry.find(version.task)
        if alias is None or task is None or alias not in task.rollouts:
            return
        watch = self._watch(task, alias)
        window = watch.canary
        if window is not None:
            if isinstance(answer, InferenceResponse):
                reason = window.add(version.number, answer.queue_ms + answer.load_ms + answer.compute_ms)
            else:
                reason = window.add(version.number, None) if is_fault(answer) else None
            if reason is not None and self._clock() >= watch.not_before:
                self._withdraw(task.name, alias, watch, window, reason)
        if watch.rollout.shadow is not None and isinstance(answer, InferenceResponse):
            self._shadows.answered(watch.rollout.shadow, watch.shadow, request, answer)

    def on_change(self, event: str, version: Version | None, task: str) -> None:
        """Forgets what is rolled out no more, so that the same begins anew when it comes back. From any thread."""
        found = self._registry.find(task)
        for (name, alias), watch in list(self._watches.items()):
            rollout = None if name != task or found is None else found.rollouts.get(alias)
            gone = rollout is None or (watch.rollout.shadow is not None and rollout.shadow is None)
            if name == task and gone:
                self._watches.pop((name, alias), None)

    def watch(self, task: Task, alias: str) -> Watch | None:
        """What is counted of an alias now; None where nothing was since it is what it is."""
        found = self._watches.get((task.name, alias))
        return found if found is not None and _is_of(found, task, alias) else None

    def watched(self) -> list[tuple[str, str, Watch]]:
        """All that are watched now: task, alias, counts. From any thread."""
        return [(task, alias, watch) for (task, alias), watch in list(self._watches.items())]

    async def stop(self) -> None:
        """Gives up what runs for shadows, and waits for what is written."""
        await self._shadows.stop()
        await asyncio.gather(*self._withdrawing, return_exceptions=True)

    def _watch(self, task: Task, alias: str) -> Watch:
        """Counts of a shadow or a canary begin anew where it, or what the alias points at, is another."""
        key = task.name, alias
        found = self._watches.get(key)
        if found is None or not _is_of(found, task, alias):
            rollout, targets = task.rollouts[alias], task.aliases[alias]
            window = None if rollout.canary is None else CanaryWindow(rollout.canary, self._clock)
            shadow = ShadowCounts()
            if found is not None and found.targets == targets:
                if found.canary is not None and found.canary.canary == rollout.canary:
                    window = found.canary
                if found.rollout.shadow == rollout.shadow:
                    shadow = found.shadow
            found = self._watches[key] = Watch(rollout, targets, time.time(), shadow, window)
            while len(self._watches) > MAX_WATCHED:
                self._watches.popitem(last=False)
        with suppress(KeyError):  # forgotten meanwhile
            self._watches.move_to_end(key)
        return found

    def _withdraw(self, task: str, alias: str, watch: Watch, window: CanaryWindow, reason: str) -> None:
        watch.not_before = self._clock() + _RETRY

        async def withdraw() -> None:
            canary = window.canary
            CURRENT_CALL.set(CANARY)  # the server does it, not the caller whose request was one too many
            try:
                after = await in_thread(self._limiter, self._registry.withdraw_canary, task, alias, canary, reason)
            except Exception:
                logger.exception("the canary %s@%d cannot be withdrawn; that is tried again", task, canary.version)
                return
            if after is not None:
                self.withdrawals += 1
                logger.error(
                    "the canary %s@%d of the alias '%s' was withdrawn: %s", task, canary.version, alias, reason
                )

        writing = asyncio.get_running_loop().create_task(withdraw())
        self._withdrawing.add(writing)
        writing.add_done_callback(self._withdrawing.discard)


def _is_of(watch: Watch, task: Task, alias: str) -> bool:
    return watch.rollout == task.rollouts.get(alias) and watch.targets == task.aliases.get(alias)

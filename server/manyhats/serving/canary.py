"""Judges a canary by its last requests, beside those of the split's other versions."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from manyhats.core.call import CURRENT_CALL
from manyhats.errors import AdapterQuarantined, DamagedStore, DeadlineExceeded, EngineFailure
from manyhats.registry.rollout import MAX_REQUESTS, Canary

_JUDGEMENTS = 20  # of latencies, within `min_requests` requests: each sorts them


def is_fault(error: Exception) -> bool:
    """Whether an answer failed by the server's fault: the model or the stored files, values that are not finite, or no
    answer in the server's own time. What the caller did, a full queue and a caller's own deadline are none."""
    if isinstance(error, DeadlineExceeded):
        return CURRENT_CALL.get().deadline is None
    return isinstance(error, EngineFailure | DamagedStore | AdapterQuarantined)


@dataclass(frozen=True, slots=True)
class SideCounts:
    """Requests of one side within the window. `p95_ms`: of those that were answered; None without one."""

    requests: int
    faults: int
    p95_ms: float | None

    @property
    def error_rate(self) -> float | None:
        """The share that failed by the server's fault; None without requests."""
        return self.faults / self.requests if self.requests else None


class _Side:
    """The requests of a window, the last `MAX_REQUESTS` at most."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float | None]] = deque()  # when, and milliseconds; None: a fault
        self.faults = 0

    def add(self, now: float, milliseconds: float | None) -> None:
        if len(self._samples) >= MAX_REQUESTS:
            self._drop()
        self._samples.append((now, milliseconds))
        self.faults += milliseconds is None

    def forget(self, before: float) -> None:
        while self._samples and self._samples[0][0] < before:
            self._drop()

    def _drop(self) -> None:
        self.faults -= self._samples.popleft()[1] is None

    @property
    def requests(self) -> int:
        return len(self._samples)

    @property
    def answered(self) -> int:
        return len(self._samples) - self.faults

    def p95(self) -> float | None:
        latencies = sorted(latency for _, latency in self._samples if latency is not None)
        return latencies[math.ceil(0.95 * len(latencies)) - 1] if latencies else None

    def counts(self) -> SideCounts:
        return SideCounts(self.requests, self.faults, self.p95())


class CanaryWindow:
    """The last requests of an alias with a canary. Only the event loop uses it. `clock`: in seconds."""

    def __init__(self, canary: Canary, clock: Callable[[], float] = time.monotonic) -> None:
        self.canary = canary
        self._clock = clock
        self._own, self._others = _Side(), _Side()
        self._pause = max(canary.min_requests // _JUDGEMENTS, 1)  # canary's requests from one judgement to the next
        self._until = 0  # of them, until latencies are judged again

    def add(self, version: int, milliseconds: float | None) -> str | None:
        """A request that a version answered in so many milliseconds, or failed on, with None.

        Returns why the canary is to be withdrawn, where it is.
        """
        now = self._clock()
        own = version == self.canary.version
        (self._own if own else self._others).add(now, milliseconds)
        return self._judge(now) if own else None

    def counts(self) -> tuple[SideCounts, SideCounts]:
        """The canary's requests, and those of the other versions."""
        self._forget(self._clock())
        return self._own.counts(), self._others.counts()

    def counted(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Requests and faults of either side that are kept, those of before the window too. From any thread."""
        return (self._own.requests, self._own.faults), (self._others.requests, self._others.faults)

    def _forget(self, now: float) -> None:
        for side in (self._own, self._others):
            side.forget(now - self.canary.window_seconds)

    def _judge(self, now: float) -> str | None:
        self._forget(now)
        canary, own = self.canary, self._own
        if own.requests < canary.min_requests:
            return None
        if canary.max_error_rate is not None and own.faults > canary.max_error_rate * own.requests:
            return (
                f"{own.faults} of its last {own.requests} requests failed by the server's fault, which is more than "
                f"{100 * canary.max_error_rate:g} %"
            )
        self._until -= 1
        if self._until > 0 or own.answered < canary.min_requests:
            return None
        self._until = self._pause
        return self._judge_latency()

    def _judge_latency(self) -> str | None:
        canary, own, others = self.canary, self._own, self._others
        if canary.max_p95_ms is None and canary.max_latency_ratio is None:
            return None
        p95 = own.p95()
        assert p95 is not None
        if canary.max_p95_ms is not None and p95 > canary.max_p95_ms:
            return (
                f"the 95th percentile of its last {own.answered} latencies is {p95:.1f} ms, which is more than "
                f"{canary.max_p95_ms:g} ms"
            )
        if canary.max_latency_ratio is None or others.answered < canary.min_requests:
            return None
        beside = others.p95()
        assert beside is not None
        if p95 > canary.max_latency_ratio * beside:
            return (
                f"the 95th percentile of its last {own.answered} latencies is {p95:.1f} ms, which is more than "
                f"{canary.max_latency_ratio:g} times the {beside:.1f} ms of the other versions"
            )
        return None

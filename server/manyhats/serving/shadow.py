"""Asks a shadow version what was just answered, behind all other work, and counts how far it agrees."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from manyhats.core.kinds.registry import KINDS
from manyhats.errors import ManyhatsError
from manyhats.registry.rollout import Shadow
from manyhats.serving.inference import InferenceRequest, InferenceResponse

logger = logging.getLogger(__name__)

MAX_RUNNING = 8  # shadow requests at a time, of all tasks: each keeps its texts
BUSY = 64  # inputs that wait, from which on no shadow is asked
_KEPT = 1024  # pairs of latencies

Ask = Callable[[InferenceRequest], Awaitable[InferenceResponse]]


@dataclass(slots=True)
class ShadowCounts:
    """What became of the requests that a shadow was to be asked.

    `answered`, `failed`, `skipped`: requests; the last where the server was busy. `agreed`, `differed`, `not_compared`:
    inputs; the last were sampled without a seed. `error`: of the last that failed. `pairs`: milliseconds in the model,
    of the answer and of the shadow's, of the last ones. `seconds`, `main_seconds`: the sums.
    """

    answered: int = 0
    failed: int = 0
    skipped: int = 0
    agreed: int = 0
    differed: int = 0
    not_compared: int = 0
    error: str | None = None
    seconds: float = 0.0
    main_seconds: float = 0.0
    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))


class ShadowTraffic:
    """Runs the requests of all shadows. Only the event loop uses it.

    `ask` answers a request behind all others; `waiting` says how many inputs wait. `rng` chooses.
    """

    def __init__(self, ask: Ask, waiting: Callable[[], int], rng: random.Random | None = None) -> None:
        self._ask = ask
        self._waiting = waiting
        self._rng = rng or random.Random()
        self._running: set[asyncio.Task[None]] = set()

    def answered(
        self, shadow: Shadow, counts: ShadowCounts, request: InferenceRequest, answer: InferenceResponse
    ) -> None:
        """A request has been answered: asks the shadow, for its share of them, or counts that it was skipped."""
        if self._rng.random() >= shadow.fraction:
            return
        if len(self._running) >= MAX_RUNNING or self._waiting() >= BUSY:
            counts.skipped += 1
            return
        run = asyncio.get_running_loop().create_task(self._run(shadow, counts, request, answer))
        self._running.add(run)
        run.add_done_callback(self._running.discard)

    @property
    def running(self) -> int:
        """How many are asked now."""
        return len(self._running)

    async def stop(self) -> None:
        """Gives up those that are asked now."""
        running = list(self._running)
        for run in running:
            run.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(
        self, shadow: Shadow, counts: ShadowCounts, request: InferenceRequest, answer: InferenceResponse
    ) -> None:
        task = f"{answer.version.task}@{shadow.version}"
        try:
            other = await self._ask(replace(request, task=task, listener=None, affinity=None))
        except Exception as error:
            counts.failed += 1
            counts.error = error.message if isinstance(error, ManyhatsError) else type(error).__name__
            if not isinstance(error, ManyhatsError):
                logger.exception("the shadow %s failed", task)
            return
        counts.answered += 1
        counts.pairs.append((answer.compute_ms, other.compute_ms))
        counts.main_seconds += answer.compute_ms / 1000
        counts.seconds += other.compute_ms / 1000
        if _is_sampled(request, answer):
            counts.not_compared += len(answer.outputs)
            return
        agreed = agreements(answer, other, shadow.tolerance)
        counts.agreed += agreed
        counts.differed += len(answer.outputs) - agreed


def agreements(answer: InferenceResponse, other: InferenceResponse, tolerance: float) -> int:
    """For how many inputs two versions say the same; none where they are of two kinds."""
    if answer.kind != other.kind:
        return 0
    agrees = KINDS[answer.kind].agrees
    return sum(agrees(one, another, tolerance) for one, another in zip(answer.outputs, other.outputs, strict=True))


def _is_sampled(request: InferenceRequest, answer: InferenceResponse) -> bool:
    """Whether the same version would have said something else the next time."""
    if "seed" in request.parameters:
        return False
    return any(one.sampling is not None and one.sampling.temperature > 0 for one in answer.sequences)

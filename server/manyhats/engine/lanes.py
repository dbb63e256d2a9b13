"""Which requests share batches: most do; some run alone, one sequence a batch.

Alone run the requests of adapters whose answers were found to differ beside others, and requests that compute an answer
once more to compare it. The first get every second step while both wait, the second every twentieth, or what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.sequence import Lane, Request, Sequence
from manyhats.engine.fair_shares import ShareBudget
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.scheduler import Queue, Scheduler

_ISOLATED_EVERY = 2  # steps
_VERIFICATION_EVERY = 20


class LoneScheduler(Scheduler):
    """Schedules one sequence a batch, and lets one generate at once."""

    def __init__(self, cache: KVCache | None, *, max_num_batched_tokens: int) -> None:
        super().__init__(cache, max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=1)

    def _schedule_prompts(self, prompts: list[Sequence], share: ShareBudget) -> None:
        if not self._scheduled:
            super()._schedule_prompts(prompts[:1], share)

    def _schedule_one_pass(self, queue: Queue | None, share: ShareBudget) -> None:
        while queue is not None and queue.one_pass and not self._scheduled:
            first = Queue()
            first.one_pass.append(queue.one_pass[0])
            super()._schedule_one_pass(first, share)
            if first.one_pass:  # it did not fit into the share
                return
            queue.one_pass.popleft()


class Lanes:
    """The schedulers of one engine, behind the methods of one. Only the model's thread uses it, but for `isolated`.

    `shared`: of the requests that share batches. All of them use one cache, if there is one.
    """

    def __init__(self, shared: Scheduler) -> None:
        tokens = shared.max_num_batched_tokens
        self.shared = shared
        self.alone = LoneScheduler(shared.cache, max_num_batched_tokens=tokens)
        self.verification = LoneScheduler(shared.cache, max_num_batched_tokens=tokens)
        self.isolated: frozenset[str] = frozenset()  # digests of the adapters whose requests run alone; others set it
        self._all = (shared, self.alone, self.verification)
        self._by_name: dict[Lane, Scheduler] = {
            "shared": shared,
            "alone": self.alone,
            "verification": self.verification,
        }
        self._current: Scheduler = shared  # whose batch is running
        self._steps = 0

    @property
    def idle(self) -> bool:
        """Whether no sequence waits or runs."""
        return self.shared.idle and self.alone.idle and self.verification.idle

    @property
    def generating(self) -> bool:
        """Whether some admitted sequence generates."""
        return bool(self.shared.running or self.alone.running or self.verification.running)

    def add(self, request: Request) -> None:
        """Queues the sequences of a request."""
        if self.isolated and request.lane == "shared" and request.digest in self.isolated:
            request.lane = "alone"
        self._by_name[request.lane].add(request)

    def abort(self, *requests: Request) -> None:
        """See `Scheduler.abort`."""
        for lane in self._all:
            lane.abort(*requests)

    def abort_running(self) -> list[Sequence]:
        """See `Scheduler.abort_running`."""
        return list(chain.from_iterable([lane.abort_running() for lane in self._all]))

    def limit(self, tokens: int) -> None:
        """Sets how many tokens a pass may have."""
        for lane in self._all:
            lane.max_num_batched_tokens = tokens

    def schedule(self) -> ScheduledBatch | None:
        """The next batch, of the lane whose turn it is; of another where that one has none."""
        for lane in self._in_turn():
            batch = lane.schedule()
            if batch is not None:
                self._current = lane
                return batch
        return None

    def _in_turn(self) -> Iterable[Scheduler]:
        if self.alone.idle and self.verification.idle:
            return (self.shared,)
        self._steps += 1
        if self._steps % _VERIFICATION_EVERY == 0:
            return (self.verification, self.alone, self.shared)
        if self._steps % _ISOLATED_EVERY:
            return (self.alone, self.shared, self.verification)
        return (self.shared, self.alone, self.verification)

    def update(self, batch: ScheduledBatch, outputs: Iterable[SequenceOutput]) -> list[SequenceOutput]:
        """See `Scheduler.update`."""
        return self._current.update(batch, outputs)

    def take_expired(self) -> list[Request]:
        """The requests that nobody waits for any more, since this was last asked."""
        expired = [request for lane in self._all for request in lane.expired]
        for lane in self._all:
            lane.expired.clear()
        return expired

    def take_moves(self) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences that wait no longer, and those that wait again, since this was last asked."""
        scheduled: list[Sequence] = []
        preempted: list[Sequence] = []
        for lane in self._all:
            if lane.newly_scheduled or lane.newly_preempted:
                scheduled += lane.newly_scheduled
                preempted += lane.newly_preempted
                lane.newly_scheduled, lane.newly_preempted = [], []
        return scheduled, preempted

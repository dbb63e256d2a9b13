"""Chooses the sequences of the next batch, and how many tokens of each are computed.

Waiting sequences are queued by tenant and task. Sequences that generate are admitted to `running` first: those of the
tenant with the fewest running sequences for its weight, of its task with the fewest, the oldest of them first. Then the
token budget of the batch is spent: one token for each sequence that decodes; the rest in shares by weight for all
tenants, and in equal ones for a tenant's tasks, on chunks of prompts (chunked prefill) and on whole sequences that one
pass answers. First comes the tenant that has got the least so far for its weight (`engine.fair_shares`), with its
oldest sequence, which is always scheduled, so that none waits for ever. Tokens that a share leaves unused go to tenants
and tasks in the order of what they have got.

While somebody who asks for little is there beside others who ask for much, passes are kept short: `shared_tokens`; and
what the first asks for runs without the others' (`FairShares.ahead`), whose rows would make its pass longer.

Where the cache is full the youngest running sequence is preempted: its blocks are freed, and it is computed again
later.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from manyhats.core.batch import ScheduledBatch, ScheduledSequence, SequenceOutput
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import Request, Sequence
from manyhats.engine.accepted_token import accept_token
from manyhats.engine.fair_shares import FairShares, ShareBudget, TaskKey
from manyhats.engine.kv_cache import BlockHash, KVCache, blocks_for

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Queue:
    """The waiting sequences of one task: those that generate, and those that one pass answers."""

    generation: deque[Sequence] = field(default_factory=deque)
    one_pass: deque[Sequence] = field(default_factory=deque)


class Scheduler:
    """Holds all unfinished sequences, and schedules them. Only the model's thread uses it.

    `cache`: None for backbones without a language model. `max_num_batched_tokens`: maximum tokens of one pass; a longer
    sequence that cannot be computed in chunks gets a pass of its own. `max_num_seqs`: maximum sequences that generate
    at once.
    """

    def __init__(
        self,
        cache: KVCache | None,
        *,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache
        self.max_num_batched_tokens = max_num_batched_tokens
        if cache is not None:  # every running sequence needs one token of each pass
            self.max_num_batched_tokens = max(max_num_batched_tokens, max_num_seqs)
        self.max_num_seqs = max_num_seqs
        self.shared_tokens: Callable[[], float] = lambda: inf  # of a pass that somebody may have to wait for
        self.shares = FairShares(clock)
        self.expired: list[Request] = []  # since the engine last took them: nobody waits for their answers any more
        self._clock = clock
        self._weights: dict[str, float] = {}  # of the tenants that are here
        self.running: list[Sequence] = []  # admitted sequences that generate, in the order of their admission
        self.preempted = 0  # number of preemptions
        self.newly_scheduled: list[Sequence] = []  # since the engine last took them: they wait no longer
        self.newly_preempted: list[Sequence] = []  # since the engine last took them: they wait again
        self._waiting: dict[TaskKey, Queue] = {}
        self._failed_to_start: list[SequenceOutput] = []  # errors of sequences that could not be admitted
        self._scheduled: dict[Sequence, int] = {}  # tokens of each sequence in the batch that is being scheduled
        self._budget = 0  # tokens that the batch may still have
        self._short = False  # whether the batch is kept short

    @property
    def idle(self) -> bool:
        """Whether no sequence waits or runs."""
        return not self.running and not self._waiting

    def add(self, request: Request) -> None:
        """Queues the sequences of a request."""
        queue = self._waiting.setdefault(_key(request), Queue())
        self._weights[request.tenant] = request.weight
        for sequence in request.sequences:
            (queue.generation if sequence.sampling is not None else queue.one_pass).append(sequence)

    def abort(self, *requests: Request) -> None:
        """Removes the sequences of requests, and frees their blocks."""
        aborted = set(requests)
        for sequence in [one for one in self.running if one.request in aborted]:
            self._release(sequence)
        for key in {_key(request) for request in aborted}:
            if (queue := self._waiting.get(key)) is not None:
                queue.generation = deque(one for one in queue.generation if one.request not in aborted)
                queue.one_pass = deque(one for one in queue.one_pass if one.request not in aborted)
                self._remove_if_empty(key)

    def abort_running(self) -> list[Sequence]:
        """Removes and returns all running and scheduled sequences, and resets the cache, whatever its state."""
        active = {*self.running, *self._scheduled, *(output.sequence for output in self._failed_to_start)}
        self.running, self._scheduled, self._failed_to_start = [], {}, []
        if self.cache is not None:
            self.cache.reset()
        return list(active)

    # ---- scheduling

    def schedule(self) -> ScheduledBatch | None:
        """The next batch; None where nothing can run. It is empty where sequences could not be admitted, whose errors
        `update` returns."""
        self._scheduled = {}
        self._budget = self.max_num_batched_tokens
        self._short = self.shares.crowded() and self.shared_tokens() < self._budget
        if self._short:
            self._budget = max(int(self.shared_tokens()), len(self.running), 1)
        keys = {*self._waiting, *(_key(one.request) for one in self.running)}
        self.shares.present(keys)
        if len(self._weights) > len(keys):
            self._weights = {key.tenant: self._weights[key.tenant] for key in keys}
        for sequence in [one for one in self.running if one.released]:
            self._release(sequence)
        # An encoder phase, as for images, would be scheduled here, before its sequences are admitted.
        self._admit_waiting()
        self._schedule_decodes()
        self._schedule_rest()
        if not self._scheduled and not self._failed_to_start:
            return None
        now = self._clock()
        charged: Counter[TaskKey] = Counter()
        for sequence, tokens in self._scheduled.items():
            sequence.request.started = sequence.request.started or now
            charged[_key(sequence.request)] += tokens
        self.shares.charge(charged, self._weights)
        return ScheduledBatch(
            [
                ScheduledSequence(one, tokens, one.sampling is not None and not one.adapter.non_causal)
                for one, tokens in self._scheduled.items()
            ]
        )

    def _admit_waiting(self) -> None:
        """Admits waiting sequences that generate: of the tenant with the fewest running ones for its weight first, of
        its task with the fewest, the oldest first."""
        waiting = {key for key, queue in self._waiting.items() if queue.generation}
        if not waiting or self.cache is None or len(self.running) >= self.max_num_seqs:
            return
        computing = {one for sequence in self.running for one in self.cache.uncomputed_blocks(sequence)}
        running = Counter(_key(one.request) for one in self.running)
        of_tenant = Counter(one.request.tenant for one in self.running)

        def order(key: TaskKey) -> tuple[float, int, float]:
            weighted = of_tenant[key.tenant] / self._weights[key.tenant]
            return weighted, running[key], self._waiting[key].generation[0].request.scheduling_key

        while waiting and len(self.running) < self.max_num_seqs:
            key = min(waiting, key=order)
            queue = self._waiting[key].generation
            sequence = queue[0]
            if not self._is_over(sequence):
                if self._waits_for_prefix(sequence, computing):
                    waiting.discard(key)
                    continue
                if not self._has_free_blocks(sequence):
                    return
                try:
                    if not self.cache.allocate_prefix(sequence):
                        return
                except Exception as error:  # from its adapter's prefix
                    logger.error("a sequence of the task %s cannot be admitted", key.task, exc_info=error)
                    self._failed_to_start.append(SequenceOutput.failed(sequence, error))
                else:
                    self.running.append(sequence)
                    running[key] += 1
                    of_tenant[key.tenant] += 1
                    computing |= self.cache.uncomputed_blocks(sequence)
            queue.popleft()
            self.newly_scheduled.append(sequence)
            if not queue:
                waiting.discard(key)
                self._remove_if_empty(key)

    def _has_free_blocks(self, sequence: Sequence) -> bool:
        """Whether there are blocks for its whole prompt, or no other running sequence that could be preempted."""
        assert self.cache is not None
        needed = blocks_for(sequence.length) + 1
        return not self.running or sequence.adapter.non_causal or self.cache.pool.available >= needed

    def _waits_for_prefix(self, sequence: Sequence, computing: set[BlockHash]) -> bool:
        """Whether a running sequence computes the block that it needs next, or its prompt's log probabilities."""
        assert self.cache is not None
        if sequence.needs_prompt_logprobs:
            return not sequence.computes_prompt_logprobs
        missing = self.cache.first_missing(sequence)
        return missing is not None and missing in computing

    def _schedule_decodes(self) -> None:
        """Schedules one token of each sequence whose prompt has been computed."""
        for sequence in list(self.running):
            decodes = not sequence.adapter.non_causal and sequence.length - sequence.computed <= 1
            if decodes and sequence in self.running:  # an earlier one may have preempted it
                self._schedule_tokens(sequence, 1)

    def _schedule_rest(self) -> None:
        """Spends the rest of the budget in shares on prompts and one-pass sequences, then what is left in the order of
        what tenants and tasks have got."""
        prompts: dict[TaskKey, list[Sequence]] = {}
        for sequence in self.running:
            if sequence not in self._scheduled:
                prompts.setdefault(_key(sequence.request), []).append(sequence)
        oldest = {key: own[0].request.scheduling_key for key, own in prompts.items()}
        for key, waiting in self._waiting.items():
            if waiting.one_pass:
                oldest[key] = min(waiting.one_pass[0].request.scheduling_key, oldest.get(key, inf))
        if not oldest:
            return
        if self._short:
            tokens = {key: self._tokens_left(prompts.get(key, []), self._waiting.get(key)) for key in oldest}
            if sum(tokens.values()) > self._budget:  # else one short pass is for all
                ahead = self.shares.ahead(oldest, lambda key: tokens[key] <= self._budget)
                oldest = {key: oldest[key] for key in ahead}
        tasks = Counter(key.tenant for key in oldest)
        weights = {tenant: self._weights[tenant] for tenant in tasks}
        unit = self._budget / sum(weights.values())
        shares, several = self.shares, len(oldest) > 1
        by_age = sorted(oldest, key=lambda key: (shares.tenant(key), oldest[key])) if several else [*oldest]
        # Second, so that a sequence larger than its share comes to its turn, too.
        least = min(oldest, key=lambda key: (*shares.both(key), oldest[key])) if several else None
        if least is not None and least != by_age[0]:
            by_age.remove(least)
            by_age.insert(1, least)
        share = ShareBudget(0)
        for limited in (True, False):
            by_got = sorted(oldest, key=lambda key: (*shares.both(key), oldest[key])) if several else by_age
            for key in by_age if limited else by_got:
                share.tokens = int(unit * weights[key.tenant]) // tasks[key.tenant] if limited else self._budget
                own, queue = prompts.get(key, []), self._waiting.get(key)
                if key == least and queue is not None and queue.one_pass:
                    share.tokens = max(share.tokens, queue.one_pass[0].length)
                if own and own[0].request.scheduling_key <= oldest[key]:
                    self._schedule_prompts(own, share)
                    self._schedule_one_pass(queue, share)
                else:
                    self._schedule_one_pass(queue, share)
                    self._schedule_prompts(own, share)
        for key in by_age:
            self._remove_if_empty(key)

    def _tokens_left(self, prompts: list[Sequence], queue: Queue | None) -> float:
        """The tokens that a task has to compute; infinite where they are surely more than the batch may have."""
        waiting = queue.one_pass if queue is not None else ()
        if len(prompts) + len(waiting) > self._budget:
            return inf
        return float(sum(one.length - one.computed for one in (*prompts, *waiting)))

    def _schedule_prompts(self, prompts: list[Sequence], share: ShareBudget) -> None:
        """Schedules the next chunks of one task's prompts."""
        for sequence in prompts:
            if sequence not in self.running:  # it was preempted
                continue
            planned = self._scheduled.get(sequence, 0)
            if sequence.adapter.non_causal:
                count = minimum = sequence.length - planned
            else:
                start = sequence.computed + planned
                minimum = sequence.virtual + 1 if start < sequence.virtual else 1  # virtual tokens are in one chunk
                available = min(share.tokens, self._budget)
                count = min(sequence.length - start, max(available, 0 if share.used else minimum))
            if count <= 0 or count < minimum or (share.used and count > min(share.tokens, self._budget)):
                continue
            if self._schedule_tokens(sequence, count):
                share.spend(count)

    def _schedule_one_pass(self, queue: Queue | None, share: ShareBudget) -> None:
        """Schedules the next sequences of one task that one pass answers."""
        while queue is not None and queue.one_pass:
            sequence = queue.one_pass[0]
            if not self._is_over(sequence):
                if share.used and sequence.length > min(share.tokens, self._budget):
                    return
                self._scheduled[sequence] = sequence.length
                self._budget -= sequence.length
                share.spend(sequence.length)
            queue.one_pass.popleft()
            self.newly_scheduled.append(sequence)

    def _is_over(self, sequence: Sequence) -> bool:
        """Whether nobody needs a waiting sequence's output any more, as one whose deadline has passed."""
        request = sequence.request
        if sequence.released or request in self.expired:
            return True
        if request.deadline is None or request.started or request.deadline > self._clock():
            return False
        self.expired.append(request)
        return True

    # ---- blocks

    def _schedule_tokens(self, sequence: Sequence, tokens: int) -> bool:
        """Schedules so many more tokens of a sequence, preempting the youngest while blocks are missing. Returns False
        where the sequence itself was preempted."""
        planned = self._scheduled.get(sequence, 0)
        if self.cache is not None and not sequence.adapter.non_causal:
            while not self.cache.allocate(sequence, sequence.computed + planned + tokens):
                youngest = next(one for one in reversed(self.running) if one.blocks or one is sequence)
                self._preempt(youngest)
                if youngest is sequence:
                    return False
        self._scheduled[sequence] = planned + tokens
        self._budget -= tokens
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preempted += 1
        self._budget += self._scheduled.pop(sequence, 0)
        self._release(sequence)
        self._waiting.setdefault(_key(sequence.request), Queue()).generation.appendleft(sequence)
        self.newly_preempted.append(sequence)

    def _release(self, sequence: Sequence, *, discard: bool = False) -> None:
        """Removes a sequence from `running`, and frees its blocks and its use of the prefix blocks. `discard`: what
        they hold may be wrong, and must not be found by others."""
        if sequence in self.running:
            self.running.remove(sequence)
        if self.cache is not None:
            if discard:
                self.cache.discard(sequence)
            self.cache.free(sequence)

    def _remove_if_empty(self, key: TaskKey) -> None:
        queue = self._waiting.get(key)
        if queue is not None and not queue.generation and not queue.one_pass:
            del self._waiting[key]

    # ---- results

    def update(self, batch: ScheduledBatch, outputs: Iterable[SequenceOutput]) -> list[SequenceOutput]:
        """Applies the outputs of a batch. Returns those to deliver: results, tokens, ends of sequences and errors."""
        received = list(outputs)
        failed = {output.sequence for output in received if output.error is not None}
        for sequence, tokens, cached in batch.sequences:
            if cached and self.cache is not None and sequence not in failed:
                self.cache.mark_computed(sequence, tokens)
        self._scheduled = {}
        to_deliver, self._failed_to_start = self._failed_to_start, []
        for output in received:
            if output.sequence.sampling is None:
                to_deliver.append(output)
            elif not output.sequence.released:
                new = self._advance_sequence(output, output.sequence.sampling)
                if new.error is not None or new.finished is not None:
                    output.sequence.finished = new.finished
                    self._release(output.sequence, discard=new.error is not None)
                    to_deliver.append(new)
                elif new.token is not None:
                    to_deliver.append(new)
        return to_deliver

    def _advance_sequence(self, output: SequenceOutput, params: SamplingParams) -> SequenceOutput:
        """The output of a generating sequence, with its token appended or its end noted."""
        sequence = output.sequence
        if output.error is not None:
            return output
        if output.token is not None:
            try:
                return accept_token(sequence, params, output.token)
            except Exception as error:
                return SequenceOutput(sequence, error=error)
        computed = sequence.adapter.non_causal or sequence.computed == sequence.length
        return output._replace(finished="length") if computed and not params.max_new_tokens else output


def _key(request: Request) -> TaskKey:
    return TaskKey(request.tenant, request.task)

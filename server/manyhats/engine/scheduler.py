"""Which sequences go into the next pass, and with how many of their tokens.

There is one structure of all that waits, by tenant and task, and one rule of fairness. Sequences that generate first
get a seat: those whose task has the fewest, the oldest of them first. Then a pass is filled: one token of each sequence
whose prompt has been read; what is left of the budget goes in equal shares to all tenants, and in each to its tasks,
for prompts that are read, in chunks, and for sequences that one pass answers, as wholes; what they leave goes to the
oldest. The oldest of all always goes, so nobody waits for ever.

Where the cache is full the youngest sequence gives its blocks up and is read again later; nothing fails for it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from manyhats.core.batch import ScheduledBatch, ScheduledSequence, SequenceOutput
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.sequence import FinishReason, Request, Sequence
from manyhats.engine.kv_cache import BlockHash, KVCache, blocks_for
from manyhats.errors import InvalidRequest

logger = logging.getLogger(__name__)


class TaskKey(NamedTuple):
    """Whose share it is."""

    tenant: str
    task: str


@dataclass(slots=True)
class _Queue:
    """What waits of one task: for a seat, or for one pass."""

    seats: deque[Sequence] = field(default_factory=deque)
    passes: deque[Sequence] = field(default_factory=deque)


class Scheduler:
    """All sequences that the engine has taken in. The model's thread alone uses it.

    `cache`: for backbones that continue texts. `max_num_batched_tokens`: the most tokens of one pass; a single longer
    sequence that cannot be read in chunks still goes. `max_num_seqs`: the most sequences that generate at once.
    """

    def __init__(self, cache: KVCache | None, *, max_num_batched_tokens: int, max_num_seqs: int) -> None:
        self.cache = cache
        self.max_num_batched_tokens = max_num_batched_tokens
        if cache is not None:  # each that generates needs one token of every pass
            self.max_num_batched_tokens = max(max_num_batched_tokens, max_num_seqs)
        self.max_num_seqs = max_num_seqs
        self.running: list[Sequence] = []  # that generate and have a seat, the oldest first
        self.preempted = 0  # times that a sequence gave its blocks up
        self.placed: list[Sequence] = []  # since the engine last looked: they wait no more
        self.displaced: list[Sequence] = []  # since then: they wait again
        self._waiting: dict[TaskKey, _Queue] = {}
        self._refused: list[SequenceOutput] = []  # could not begin
        self._chosen: dict[Sequence, int] = {}  # of the pass that is being put together: how many tokens
        self._left = 0  # tokens of the budget

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self._waiting

    def add(self, request: Request) -> None:
        """Takes a request in."""
        queue = self._waiting.setdefault(_key(request), _Queue())
        for sequence in request.sequences:
            (queue.seats if sequence.sampling is not None else queue.passes).append(sequence)

    def abort(self, *requests: Request) -> None:
        """Takes out the sequences of requests that nobody waits for any more."""
        gone = set(requests)
        for sequence in [one for one in self.running if one.request in gone]:
            self._release(sequence)
        for key in {_key(request) for request in gone}:
            if (queue := self._waiting.get(key)) is not None:
                queue.seats = deque(one for one in queue.seats if one.request not in gone)
                queue.passes = deque(one for one in queue.passes if one.request not in gone)
                self._drop_if_empty(key)

    def abort_running(self) -> list[Sequence]:
        """Takes out all sequences that have a seat or stand in a pass, whatever state the cache is in; gives them."""
        under_way = {*self.running, *self._chosen, *(output.sequence for output in self._refused)}
        self.running, self._chosen, self._refused = [], {}, []
        if self.cache is not None:
            self.cache.reset()
        return list(under_way)

    # ---- which go

    def schedule(self) -> ScheduledBatch | None:
        """The next pass; None where nothing can run. A batch without sequences: some could not even begin."""
        self._chosen = {}
        self._left = self.max_num_batched_tokens
        for sequence in [one for one in self.running if one.released]:
            self._release(sequence)
        # An encode phase, of what sequences read besides their prompts, would be chosen here: before a seat is given.
        self._give_seats()
        self._decode()
        self._share()
        if not self._chosen and not self._refused:
            return None
        now = time.monotonic()
        for sequence in self._chosen:
            sequence.request.started = sequence.request.started or now
        return ScheduledBatch(
            [
                ScheduledSequence(one, tokens, one.sampling is not None and not one.adapter.non_causal)
                for one, tokens in self._chosen.items()
            ]
        )

    def _give_seats(self) -> None:
        """Those get one whose task has the fewest, the oldest of them first."""
        waiting = {key for key, queue in self._waiting.items() if queue.seats}
        if not waiting or self.cache is None or len(self.running) >= self.max_num_seqs:
            return
        reading = {one for running in self.running for one in self.cache.unread(running)}
        seats = Counter(_key(one.request) for one in self.running)
        while waiting and len(self.running) < self.max_num_seqs:
            key = min(waiting, key=lambda k: (seats[k], self._waiting[k].seats[0].request.due))
            queue = self._waiting[key].seats
            sequence = queue[0]
            if not sequence.released:
                if self._follows(sequence, reading):
                    waiting.discard(key)
                    continue
                if not self._has_room(sequence):
                    return
                try:
                    if not self.cache.begin(sequence):
                        return
                except Exception as error:  # its adapter's fault
                    logger.error("a sequence of the task %s cannot begin", key.task, exc_info=error)
                    self._refused.append(SequenceOutput(sequence, error=error))
                else:
                    self.running.append(sequence)
                    seats[key] += 1
                    reading |= self.cache.unread(sequence)
            queue.popleft()
            self.placed.append(sequence)
            if not queue:
                waiting.discard(key)
                self._drop_if_empty(key)

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether there are blocks for all that it has to read; nobody else may be there to give any."""
        assert self.cache is not None
        needed = blocks_for(sequence.length) + 1
        return not self.running or sequence.adapter.non_causal or self.cache.pool.available >= needed

    def _follows(self, sequence: Sequence, reading: set[BlockHash]) -> bool:
        """Whether another sequence is just reading the same beginning, or scores the same prompt."""
        assert self.cache is not None
        if sequence.unscored:
            return not sequence.scorer
        missing = self.cache.first_missing(sequence)
        return missing is not None and missing in reading

    def _decode(self) -> None:
        """One token of each sequence whose prompt has been read."""
        for sequence in list(self.running):
            decodes = not sequence.adapter.non_causal and sequence.length - sequence.computed <= 1
            if decodes and sequence in self.running:  # it may have given its blocks up for one before
                self._take(sequence, 1)

    def _share(self) -> None:
        """What is left goes in equal shares to all that is to be read, and what they leave to the oldest."""
        prompts: dict[TaskKey, list[Sequence]] = {}
        for sequence in self.running:
            if sequence not in self._chosen:
                prompts.setdefault(_key(sequence.request), []).append(sequence)
        due = {key: own[0].request.due for key, own in prompts.items()}
        for key, waiting in self._waiting.items():
            if waiting.passes:
                due[key] = min(waiting.passes[0].request.due, due.get(key, inf))
        if not due:
            return
        tasks = Counter(key.tenant for key in due)
        by_age = sorted(due, key=due.__getitem__)
        share = self._left // len(tasks)
        read = _Reading(0)
        for shared in (True, False):
            for key in by_age:
                read.left = share // tasks[key.tenant] if shared else self._left
                own, queue = prompts.get(key, []), self._waiting.get(key)
                if own and own[0].request.due <= due[key]:
                    self._read_prompts(own, read)
                    self._read_wholes(queue, read)
                else:
                    self._read_wholes(queue, read)
                    self._read_prompts(own, read)
        for key in by_age:
            self._drop_if_empty(key)

    def _read_prompts(self, prompts: list[Sequence], read: _Reading) -> None:
        """The next chunks of the prompts of one task."""
        for sequence in prompts:
            if sequence not in self.running:  # it gave its blocks up
                continue
            planned = self._chosen.get(sequence, 0)
            if sequence.adapter.non_causal:
                count = least = sequence.length - planned
            else:
                start = sequence.computed + planned
                least = sequence.virtual + 1 if start < sequence.virtual else 1  # virtual tokens in one piece
                count = min(sequence.length - start, max(min(read.left, self._left), 0 if read.any else least))
            if count <= 0 or count < least or (read.any and count > min(read.left, self._left)):
                continue
            if self._take(sequence, count):
                read.note(count)

    def _read_wholes(self, queue: _Queue | None, read: _Reading) -> None:
        """The next sequences of one task that one pass answers."""
        while queue is not None and queue.passes:
            sequence = queue.passes[0]
            if not sequence.released:
                if read.any and sequence.length > min(read.left, self._left):
                    return
                self._chosen[sequence] = sequence.length
                self._left -= sequence.length
                read.note(sequence.length)
            queue.passes.popleft()
            self.placed.append(sequence)

    # ---- places and blocks

    def _take(self, sequence: Sequence, tokens: int) -> bool:
        """Puts so many more of its tokens into the pass; False where there were no blocks and it gave up its own."""
        planned = self._chosen.get(sequence, 0)
        if self.cache is not None and not sequence.adapter.non_causal:
            while not self.cache.grow(sequence, sequence.computed + planned + tokens):
                youngest = next(one for one in reversed(self.running) if one.blocks or one is sequence)
                self._preempt(youngest)
                if youngest is sequence:
                    return False
        self._chosen[sequence] = planned + tokens
        self._left -= tokens
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preempted += 1
        self._left += self._chosen.pop(sequence, 0)
        self._release(sequence)
        self._waiting.setdefault(_key(sequence.request), _Queue()).seats.appendleft(sequence)
        self.displaced.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Gives up its seat, its blocks and its part of the prefix."""
        if sequence in self.running:
            self.running.remove(sequence)
        if self.cache is not None:
            self.cache.free(sequence)

    def _drop_if_empty(self, key: TaskKey) -> None:
        queue = self._waiting.get(key)
        if queue is not None and not queue.seats and not queue.passes:
            del self._waiting[key]

    # ---- what came of it

    def update(self, batch: ScheduledBatch, outputs: Iterable[SequenceOutput]) -> list[SequenceOutput]:
        """Takes in what a pass gave. Returns what there is to tell: answers, tokens, ends of sequences and failures."""
        given = list(outputs)
        failed = {output.sequence for output in given if output.error is not None}
        for sequence, tokens, cached in batch.sequences:
            if cached and self.cache is not None and sequence not in failed:
                self.cache.computed(sequence, tokens)
        self._chosen = {}
        told, self._refused = self._refused, []
        for output in given:
            if output.sequence.sampling is None:
                told.append(output)
            elif not output.sequence.released:
                new = self._advance(output, output.sequence.sampling)
                if new.error is not None or new.finished is not None:
                    output.sequence.finished = new.finished
                    self._release(output.sequence)
                    told.append(new)
                elif new.token is not None:
                    told.append(new)
        return told

    def _advance(self, output: SequenceOutput, params: SamplingParams) -> SequenceOutput:
        """One step of a sequence that generates."""
        sequence = output.sequence
        if output.error is not None:
            return output
        if output.token is not None:
            try:
                return _accepted(sequence, params, output.token)
            except Exception as error:
                return SequenceOutput(sequence, error=error)
        read = sequence.adapter.non_causal or sequence.computed == sequence.length
        return output._replace(finished="length") if read and not params.max_new_tokens else output


@dataclass(slots=True)
class _Reading:
    """How far a share goes. `left`: tokens of the task whose turn it is; `any`: whether anything is read yet."""

    left: int
    any: bool = False

    def note(self, tokens: int) -> None:
        """So many tokens are read: the oldest have had theirs, whatever their length."""
        self.left -= tokens
        self.any = True


def _accepted(sequence: Sequence, params: SamplingParams, sampled: SampledToken) -> SequenceOutput:
    """A sequence with one token more, or at its end. Raises InvalidRequest where nothing may follow."""
    if sampled.token < 0:
        raise _no_token(sequence)
    complete = sequence.constraint.accept(sampled.token) if sequence.constraint is not None else False
    kept = sampled.token in params.kept_eos_token_ids
    if sampled.token in params.eos_token_ids and not kept:
        sequence.ended_by = sampled
        return SequenceOutput(sequence, finished="stop")
    sequence.output.append(sampled)
    if complete and len(sequence.output) < params.min_tokens:
        raise _no_token(sequence)
    finished: FinishReason | None = None
    if complete or kept:
        finished = "stop"
    elif len(sequence.output) >= params.max_new_tokens:
        finished = "length"
    return SequenceOutput(sequence, sampled, finished)


def _no_token(sequence: Sequence) -> InvalidRequest:
    return InvalidRequest(
        f"after {len(sequence.output)} tokens of the answer its constraints leave no token that may follow: the form, "
        "allowed_token_ids, bad_words and min_tokens together",
        param="parameters",
    )


def _key(request: Request) -> TaskKey:
    return TaskKey(request.tenant, request.task)

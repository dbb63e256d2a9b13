"""Scheduling: the token budget, age, shares, admission, and preemption where the cache is full."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.sequence import PoolingParams, Request, Sequence
from manyhats.engine.admission import Admission
from manyhats.engine.fair_shares import TaskKey
from manyhats.engine.kv_cache import BLOCK, KVCache
from manyhats.engine.scheduler import Scheduler
from manyhats.errors import Overloaded
from manyhats.methods.bound_adapter import BARE


def request(task: str, lengths: list[int], arrival_time: float = 0.0, priority: int = 0, tenant: str = "") -> Request:
    """Sequences that one pass answers."""
    sequences = [Sequence(BARE, [1] * length, PoolingParams(), index=i) for i, length in enumerate(lengths)]
    return Request(task, sequences, arrival_time=arrival_time, priority=priority, tenant=tenant)


def generation(task: str, prompt: list[int], new: int = 3, arrival_time: float = 0.0, n: int = 1) -> Request:
    """Sequences that generate."""
    sequences = [Sequence(BARE, prompt, SamplingParams(max_new_tokens=new), index=i) for i in range(n)]
    return Request(task, sequences, digest=task, arrival_time=arrival_time, samples_per_prompt=n)


def scheduled_in(batch: ScheduledBatch | None) -> list[Sequence]:
    return [] if batch is None else [one.sequence for one in batch.sequences]


def drain(scheduler: Scheduler) -> list[list[Sequence]]:
    batches = []
    while batch := scheduler.schedule():
        batches.append(scheduled_in(batch))
    return batches


def waiting(scheduler: Scheduler) -> dict[TaskKey, list[Sequence]]:
    return {key: [*queue.one_pass, *queue.generation] for key, queue in scheduler._waiting.items()}


requests = st.lists(
    st.tuples(st.sampled_from("abcde"), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(-3, 3)),
    min_size=1,
    max_size=12,
).map(lambda several: [request(t, lengths, float(i), p) for i, (t, lengths, p) in enumerate(several)])


def filled(several: list[Request], budget: int) -> Scheduler:
    scheduler = Scheduler(None, max_num_batched_tokens=budget, max_num_seqs=1)
    for one in several:
        scheduler.add(one)
    return scheduler


# ---- sequences that one pass answers


@settings(max_examples=60, deadline=None)
@given(several=requests, budget=st.integers(1, 100))
def test_nothing_is_lost_or_doubled(several: list[Request], budget: int) -> None:
    scheduler = filled(several, budget)
    scheduled = Counter(sequence for batch in drain(scheduler) for sequence in batch)
    assert scheduled == {sequence: 1 for one in several for sequence in one.sequences}
    assert scheduler.idle
    assert Counter(scheduler.newly_scheduled) == scheduled


@settings(max_examples=60, deadline=None)
@given(several=requests, budget=st.integers(1, 100))
def test_the_budget_is_kept_but_for_a_lone_long_sequence(several: list[Request], budget: int) -> None:
    for batch in drain(filled(several, budget)):
        assert sum(sequence.length for sequence in batch) <= budget or len(batch) == 1


@settings(max_examples=60, deadline=None)
@given(several=requests, budget=st.integers(1, 100))
def test_the_oldest_sequence_is_always_taken(several: list[Request], budget: int) -> None:
    scheduler = filled(several, budget)
    while not scheduler.idle:
        heads = [own[0] for own in waiting(scheduler).values()]
        due = min(sequence.request.scheduling_key for sequence in heads)
        batch = scheduled_in(scheduler.schedule())
        assert any(sequence.request.scheduling_key == due and sequence in batch for sequence in heads)


@settings(max_examples=60, deadline=None)
@given(several=requests, budget=st.integers(1, 100))
def test_sequences_of_a_task_keep_their_order(several: list[Request], budget: int) -> None:
    seen: dict[str, list[tuple[float, int]]] = {}
    for batch in drain(filled(several, budget)):
        for sequence in batch:
            seen.setdefault(sequence.request.task, []).append((sequence.request.arrival_time, sequence.index))
    assert all(order == sorted(order) for order in seen.values())


@settings(max_examples=60, deadline=None)
@given(several=requests, budget=st.integers(1, 100))
def test_every_task_gets_its_share(several: list[Request], budget: int) -> None:
    scheduler = filled(several, budget)
    while not scheduler.idle:
        queues = {key.task: [sequence.length for sequence in own] for key, own in waiting(scheduler).items()}
        share = budget // len(queues)
        batch = scheduled_in(scheduler.schedule())
        lone_long_one = len(batch) == 1 and batch[0].length > share
        got = {sequence.request.task for sequence in batch}
        for task, lengths in queues.items():
            if lone_long_one or task in got:
                continue
            # A task gets nothing only where its first sequence is larger than its share, or where a long one of the
            # oldest task, or of that which has got least, has used up the tokens: they come first.
            assert lengths[0] > share or any(sequence.length > share for sequence in batch)


def test_a_flood_of_one_task_does_not_hold_up_another() -> None:
    flood, drop = request("flood", [10] * 1000, 0), request("drop", [10], 1)
    first = scheduled_in(filled([flood, drop], 100).schedule())
    assert Counter(sequence.request.task for sequence in first) == {"flood": 9, "drop": 1}


def test_shares_are_by_tenant_and_then_by_task() -> None:
    """A tenant does not get more by asking for more tasks."""
    many = [request(f"t{i}", [10] * 100, i, tenant="many") for i in range(9)]
    one = request("t", [10] * 100, 50, tenant="one")
    batch = scheduled_in(filled([*many, one], 180).schedule())
    assert Counter(sequence.request.tenant for sequence in batch) == {"many": 9, "one": 9}
    assert Counter(sequence.request.task for sequence in batch) == {"t": 9} | {f"t{i}": 1 for i in range(9)}


def test_priority_goes_before_age() -> None:
    scheduler = filled([request("a", [10], 5.0), request("b", [10], 8.0, priority=10)], 10)
    assert [batch[0].request.task for batch in drain(scheduler)] == ["b", "a"]


@settings(max_examples=60, deadline=None)
@given(several=requests, data=st.data(), budget=st.integers(1, 100))
def test_what_is_aborted_is_gone(several: list[Request], data: Any, budget: int) -> None:
    scheduler = filled(several, budget)
    inside: list[Sequence] = []
    for _ in range(3):
        if data.draw(st.booleans()):
            scheduler.schedule()
        gone = data.draw(st.sampled_from(several))
        scheduler.abort(gone)
        scheduler.abort(gone)  # once more does nothing
        inside = [sequence for own in waiting(scheduler).values() for sequence in own]
        assert all(sequence.request is not gone for sequence in inside)
        assert all(waiting(scheduler).values())
    assert Counter(sequence for batch in drain(scheduler) for sequence in batch) == Counter(inside)


def test_aborting_what_was_never_there() -> None:
    scheduler = filled([request("a", [1])], 10)
    scheduler.abort(request("a", [1]))
    scheduler.abort(request("b", [1]))
    assert len(drain(scheduler)) == 1


def test_cancelled_requests_are_not_computed() -> None:
    gone, stays = request("a", [1, 1]), request("a", [1])
    scheduler = filled([gone, stays], 10)
    gone.future.cancel()
    assert drain(scheduler) == [stays.sequences]
    assert len(scheduler.newly_scheduled) == 3


def test_an_empty_scheduler_has_no_batch() -> None:
    assert filled([], 10).schedule() is None


# ---- sequences that generate


class Model:
    """Replaces the runner: every sampled token is 7."""

    def __init__(self, backbone: Backbone, *, budget: int, max_num_seqs: int, blocks: int = 64) -> None:
        kv_heads, dim = backbone.kv_shape
        self.cache = KVCache(backbone, blocks * BLOCK * 2 * backbone.layers * kv_heads * dim * 4)
        self.scheduler = Scheduler(self.cache, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs)

    def add(self, *several: Request) -> None:
        for one in several:
            self.scheduler.add(one)

    def step(self) -> dict[Sequence, int]:
        """How many tokens of each were in the pass."""
        batch = self.scheduler.schedule()
        if batch is None:
            return {}
        outputs = []
        for sequence, tokens, cached in batch.sequences:
            samples = cached and sequence.computed + tokens == sequence.length
            outputs.append(SequenceOutput(sequence, SampledToken(7, None, ()) if samples else None))
        for output in self.scheduler.update(batch, outputs):
            output.sequence.finish_reason = output.finished
        return {one.sequence: one.tokens for one in batch.sequences}

    def finish(self) -> list[dict[Sequence, int]]:
        steps = []
        while step := self.step():
            steps.append(step)
        assert self.scheduler.idle
        assert self.cache.pool.used == 0
        return steps


@pytest.fixture(scope="module")
def llama(load_backbone: Any) -> Backbone:
    return load_backbone("llama")


def test_decodes_prompts_and_one_pass_sequences_share_a_pass(llama: Backbone) -> None:
    model = Model(llama, budget=64, max_num_seqs=8)
    first = generation("a", [1] * 10)
    model.add(first)
    assert model.step() == {first.sequences[0]: 10}
    prompt, whole = generation("b", [2] * 200, arrival_time=1), request("c", [20, 20], arrival_time=2)
    model.add(prompt, whole)
    step = model.step()
    assert step[first.sequences[0]] == 1
    assert step[whole.sequences[0]] == 20
    assert step[prompt.sequences[0]] == 64 - 1 - 20  # its share, and what the others left
    assert sum(step.values()) == 64
    model.finish()
    assert len(prompt.sequences[0].output) == 3


def test_nobody_waits_for_ever(llama: Backbone) -> None:
    """However full the passes are of decodes, the oldest of all others goes."""
    model = Model(llama, budget=4, max_num_seqs=4)
    model.add(*(generation("a", [i], new=30) for i in range(4)))
    model.step()
    late = request("b", [50], arrival_time=1)
    model.add(late)
    assert model.step()[late.sequences[0]] == 50


def test_a_long_prompt_is_computed_in_chunks_beside_others(llama: Backbone) -> None:
    model = Model(llama, budget=32, max_num_seqs=4)
    long, short = generation("a", [*range(100)]), generation("b", [5] * 8, arrival_time=1)
    model.add(long, short)
    steps = model.finish()
    assert steps[0] == {long.sequences[0]: 24, short.sequences[0]: 8}
    assert all(step[short.sequences[0]] == 1 for step in steps[1:3])
    assert all(sum(step.values()) <= 32 for step in steps)


def test_the_task_with_the_fewest_running_sequences_is_admitted_first(llama: Backbone) -> None:
    model = Model(llama, budget=64, max_num_seqs=4)
    model.add(*(generation("greedy", [i, 1], arrival_time=i) for i in range(10)))
    model.add(generation("other", [1, 2], arrival_time=20))
    model.step()
    assert Counter(sequence.request.task for sequence in model.scheduler.running) == {"greedy": 3, "other": 1}
    model.finish()


def test_a_sequence_waits_for_a_prefix_that_is_being_computed(llama: Backbone) -> None:
    prompt = [*range(3 * BLOCK)]
    model = Model(llama, budget=128, max_num_seqs=8)
    one = generation("a", [*prompt, 1], n=2)
    model.add(one)
    assert list(model.step()) == [one.sequences[0]]
    assert model.step() == {one.sequences[0]: 1, one.sequences[1]: 1}
    assert model.cache.reused == 3 * BLOCK


def test_where_the_cache_is_full_the_youngest_is_preempted(llama: Backbone) -> None:
    model = Model(llama, budget=64, max_num_seqs=8, blocks=6)
    old, young = generation("a", [1] * 30, new=40), generation("b", [2] * 30, new=40, arrival_time=1)
    model.add(old, young)
    steps = model.finish()
    assert model.scheduler.preempted > 0
    assert Counter(model.scheduler.newly_preempted) == {young.sequences[0]: model.scheduler.preempted}
    assert all(old.sequences[0] in step for step in steps[:40])
    assert [len(one.sequences[0].output) for one in (old, young)] == [40, 40]


def test_a_sequence_whose_text_has_ended_leaves(llama: Backbone) -> None:
    """A stop string is seen beside the model's thread."""
    model = Model(llama, budget=64, max_num_seqs=8)
    one = generation("a", [1], new=40)
    model.add(one)
    model.step()
    one.sequences[0].finish_reason = "stop"
    assert model.step() == {}
    assert model.scheduler.idle
    assert model.cache.pool.used == 0


def test_what_is_aborted_frees_its_blocks(llama: Backbone) -> None:
    model = Model(llama, budget=16, max_num_seqs=1)
    running, arrival_time = generation("a", [*range(40)]), generation("a", [2], arrival_time=1)
    model.add(running, arrival_time)
    model.step()
    model.scheduler.abort(arrival_time)
    model.scheduler.abort(running)
    assert model.scheduler.idle
    assert model.cache.pool.used == 0


def test_all_running_sequences_can_be_aborted(llama: Backbone) -> None:
    """The cache is reset, whatever its state."""
    model = Model(llama, budget=16, max_num_seqs=1)
    running, arrival_time = generation("a", [*range(40)]), generation("a", [2], arrival_time=1)
    model.add(running, arrival_time)
    model.step()
    batch = model.scheduler.schedule()
    assert batch is not None
    assert model.scheduler.abort_running() == running.sequences
    assert model.cache.pool.used == 0
    assert [list(step) for step in model.finish()] == [arrival_time.sequences] * 3


mixed = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 50), st.integers(1, 12)), min_size=1, max_size=10
)


@settings(max_examples=60, deadline=None)
@given(several=mixed, budget=st.integers(4, 60), max_num_seqs=st.integers(1, 4), blocks=st.integers(5, 12))
def test_all_kinds_together_end(
    llama: Backbone, several: list[tuple[str, bool, int, int]], budget: int, max_num_seqs: int, blocks: int
) -> None:
    model = Model(llama, budget=budget, max_num_seqs=max_num_seqs, blocks=blocks)
    submitted = [
        generation(task, [i] * length, new, i) if generates else request(task, [length], i)
        for i, (task, generates, length, new) in enumerate(several)
    ]
    model.add(*submitted)
    steps = model.finish()
    passes = Counter(sequence for step in steps for sequence in step)
    for step in steps:
        one_pass = [tokens for sequence, tokens in step.items() if sequence.sampling is None]
        assert sum(step.values()) <= max(budget, max_num_seqs) or len(one_pass) == 1
        assert sum(sequence.sampling is not None for sequence in step) <= max_num_seqs
    for one, (_, generates, _, new) in zip(submitted, several, strict=True):
        (sequence,) = one.sequences
        if generates:
            assert (len(sequence.output), sequence.finished) == (new, "length")
        else:
            assert passes[sequence] == 1


# ---- how many may wait


@settings(max_examples=60, deadline=None)
@given(several=requests, task_limit=st.integers(1, 20), total_limit=st.integers(1, 30))
def test_limits_hold_and_a_refusal_changes_nothing(several: list[Request], task_limit: int, total_limit: int) -> None:
    admission = Admission(task_limit=task_limit, total_limit=total_limit)
    for one in several:
        before = admission.waiting()
        after = before.get(one.task, 0) + len(one.sequences)
        joined = admission.total + len(one.sequences)
        fits = after <= task_limit and joined <= min(total_limit, 8 * (total_limit - admission.total))
        if fits:
            admission.admit([one])
        else:
            with pytest.raises(Overloaded) as caught:
                admission.admit([one])
            assert caught.value.retry_after > 0
            assert admission.waiting() == before
    assert admission.total <= total_limit
    assert all(count <= task_limit for count in admission.waiting().values())


def test_requests_that_are_admitted_together_are_counted_together() -> None:
    admission = Admission(task_limit=3, total_limit=4)
    with pytest.raises(Overloaded, match="`a`"):
        admission.admit([request("a", [1, 1]), request("a", [1, 1])])
    with pytest.raises(Overloaded, match="at most 4"):
        admission.admit([request("a", [1, 1, 1]), request("b", [1, 1])])
    admission.admit([request("a", [1, 1]), request("b", [1, 1])])


def test_counts_follow_scheduling_and_preemption() -> None:
    admission = Admission(task_limit=10, total_limit=10)
    one, other = request("a", [1, 1, 1]), request("b", [1])
    admission.admit([one, other])
    admission.mark_scheduled([*one.sequences[:2], *other.sequences])
    assert admission.waiting() == {"a": 1}
    admission.mark_waiting(one.sequences[:1])
    assert (admission.waiting(), admission.total) == ({"a": 2}, 2)
    admission.remove(one)
    admission.mark_scheduled(one.sequences)  # it may come later
    one.future.cancel()
    admission.mark_waiting(one.sequences)
    assert (admission.waiting(), admission.total) == ({}, 0)

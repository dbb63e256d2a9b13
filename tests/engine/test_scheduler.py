"""Which rows go together: budget, age, shares, counts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.engine.forward import Row
from manyhats.engine.scheduler import Scheduler
from manyhats.engine.work import Item, Work
from manyhats.errors import Overloaded
from manyhats.methods.adapter import BARE

WIDE = {"task_limit": 1 << 30, "total_limit": 1 << 30}


def work(task: str, lengths: list[int], queued: float = 0.0, priority: int = 0) -> Work:
    rows = [Row([1] * length, [0] * length, BARE) for length in lengths]
    return Work(task=task, rows=rows, queued=queued, priority=priority)


def counts(*works: Work) -> list[tuple[str, int]]:
    return [(one.task, len(one.rows)) for one in works]


def drain(scheduler: Scheduler) -> list[list[Item]]:
    batches = []
    while batch := scheduler.next_batch():
        batches.append(batch)
    return batches


works = st.lists(
    st.tuples(st.sampled_from("abcde"), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(-3, 3)),
    min_size=1,
    max_size=12,
).map(lambda several: [work(t, lengths, float(i), p) for i, (t, lengths, p) in enumerate(several)])


def filled(several: list[Work], budget: int) -> Scheduler:
    scheduler = Scheduler(batch_tokens=budget, **WIDE)
    for one in several:
        scheduler.add(one)
    return scheduler


@settings(max_examples=60, deadline=None)
@given(several=works, budget=st.integers(1, 100))
def test_nothing_is_lost_or_doubled(several, budget):
    scheduler = filled(several, budget)
    assert scheduler.total == sum(len(one.rows) for one in several)
    taken = Counter((id(item.work), item.index) for batch in drain(scheduler) for item in batch)
    assert taken == {(id(one), i): 1 for one in several for i in range(len(one.rows))}
    assert (scheduler.total, scheduler.waiting()) == (0, {})
    assert all(one.waiting == 0 for one in several)


@settings(max_examples=60, deadline=None)
@given(several=works, budget=st.integers(1, 100))
def test_the_budget_is_kept_but_for_a_lone_long_row(several, budget):
    for batch in drain(filled(several, budget)):
        assert sum(item.tokens for item in batch) <= budget or len(batch) == 1


@settings(max_examples=60, deadline=None)
@given(several=works, budget=st.integers(1, 100))
def test_the_oldest_row_is_always_taken(several, budget):
    scheduler = filled(several, budget)
    while scheduler.total:
        heads = {task: queue[0] for task, queue in scheduler._queues.items()}
        due = min(item.work.due for item in heads.values())
        batch = scheduler.next_batch()
        assert any(item.work.due == due and item in batch for item in heads.values())


@settings(max_examples=60, deadline=None)
@given(several=works, budget=st.integers(1, 100))
def test_rows_of_a_task_keep_their_order(several, budget):
    seen: dict[str, list[tuple[float, int]]] = {}
    for batch in drain(filled(several, budget)):
        for item in batch:
            seen.setdefault(item.work.task, []).append((item.work.queued, item.index))
    assert all(order == sorted(order) for order in seen.values())


@settings(max_examples=60, deadline=None)
@given(several=works, budget=st.integers(1, 100))
def test_every_task_gets_its_share(several, budget):
    scheduler = filled(several, budget)
    while scheduler.total:
        queues = {task: [item.tokens for item in queue] for task, queue in scheduler._queues.items()}
        share = budget // len(queues)
        batch = scheduler.next_batch()
        lone_long_row = len(batch) == 1 and batch[0].tokens > share
        got = Counter[str]()
        for item in batch:
            got[item.work.task] += item.tokens
        for task, lengths in queues.items():
            if lone_long_row or task in got:
                continue
            # A task that got nothing asked for more than its share with its very first row, or the oldest task's
            # long row, which is taken first, has used up what it needed.
            assert lengths[0] > share or batch[0].tokens > share


def test_a_flood_of_one_task_does_not_hold_up_another():
    flood, drop = work("flood", [10] * 1000, 0), work("drop", [10], 1)
    scheduler = filled([flood, drop], 100)
    first = scheduler.next_batch()
    assert Counter(item.work.task for item in first) == {"flood": 9, "drop": 1}


def test_priority_goes_before_age():
    scheduler = filled([work("a", [10], 5.0), work("b", [10], 8.0, priority=10)], 10)
    assert [batch[0].work.task for batch in drain(scheduler)] == ["b", "a"]


@settings(max_examples=60, deadline=None)
@given(several=works, data=st.data(), budget=st.integers(1, 100))
def test_counts_are_right_after_removal(several, data, budget):
    scheduler = filled(several, budget)
    for _ in range(3):
        if data.draw(st.booleans()):
            scheduler.next_batch()
        gone = data.draw(st.sampled_from(several))
        scheduler.remove(gone)
        scheduler.remove(gone)  # once more does nothing
        inside = [item for queue in scheduler._queues.values() for item in queue]
        assert all(item.work is not gone for item in inside)
        assert scheduler.total == len(inside)
        assert scheduler.waiting() == Counter(item.work.task for item in inside)
        assert all(scheduler._queues.values())
    rest = [item for batch in drain(scheduler) for item in batch]
    assert len(rest) == len(inside)


def test_removing_what_was_never_there():
    scheduler = filled([work("a", [1])], 10)
    scheduler.remove(work("a", [1]))
    scheduler.remove(work("b", [1]))
    assert scheduler.total == 1


@settings(max_examples=60, deadline=None)
@given(several=works, task_limit=st.integers(1, 20), total_limit=st.integers(1, 30))
def test_limits_hold_and_a_refusal_changes_nothing(several, task_limit, total_limit):
    scheduler = Scheduler(batch_tokens=10, task_limit=task_limit, total_limit=total_limit)
    for one in several:
        before = scheduler.waiting()
        after = before.get(one.task, 0) + len(one.rows)
        fits = after <= task_limit and scheduler.total + len(one.rows) <= total_limit
        if fits:
            scheduler.admit(counts(one))
            scheduler.add(one)
        else:
            with pytest.raises(Overloaded) as caught:
                scheduler.admit(counts(one))
            assert caught.value.retry_after > 0
            assert scheduler.waiting() == before
    assert scheduler.total <= total_limit
    assert all(count <= task_limit for count in scheduler.waiting().values())


def test_works_that_are_admitted_together_are_counted_together():
    scheduler = Scheduler(batch_tokens=10, task_limit=3, total_limit=4)
    with pytest.raises(Overloaded, match="`a`"):
        scheduler.admit(counts(work("a", [1, 1]), work("a", [1, 1])))
    with pytest.raises(Overloaded, match="at most 4"):
        scheduler.admit(counts(work("a", [1, 1, 1]), work("b", [1, 1])))
    scheduler.admit(counts(work("a", [1, 1]), work("b", [1, 1])))


def test_an_empty_scheduler_has_no_batch():
    assert Scheduler(batch_tokens=10, **WIDE).next_batch() == []

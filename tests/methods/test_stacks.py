"""Pairs of many adapters in one product: the same as one after another, whoever comes and goes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.methods.budget import MemoryBudget
from manyhats.methods.stacks import Stack, StackPool, stack_pool

from tests import tiny

IN, OUT, RANK = 6, 5, 3


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, IN, generator=generator), torch.randn(RANK, OUT, generator=generator)


def members(chosen: list[tuple[int, int]], pairs: list[tuple[torch.Tensor, torch.Tensor]], gap: int) -> list:
    made = []
    row = gap
    for which, count in chosen:
        made.append((slice(row, row + count), *pairs[which]))
        row += count + gap
    return made


def check(stack: Stack, made: list) -> None:
    rows = made[-1][0].stop + 2
    x, y = torch.randn(rows, IN), torch.randn(rows, OUT)
    expected = y.clone()
    for own, down, up in made:
        expected[own] += x[own] @ down.T @ up
    placed = stack.place(made)
    assert placed is not None
    placed.add(x, y)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)), min_size=1, max_size=9, unique_by=lambda m: m[0]),
        min_size=1,
        max_size=6,
    ),
    gap=st.integers(0, 2),
)
def test_equals_one_after_another(batches: list[list[tuple[int, int]]], gap: int) -> None:
    pairs = [pair(seed) for seed in range(12)]
    stack = Stack(*pairs[0])
    for chosen in batches:
        made = members(chosen, pairs, gap)
        if stack.place(made) is not None:
            check(stack, made)


def test_what_was_placed_knows_that_it_is_stale() -> None:
    pairs = [pair(seed) for seed in range(3)]
    stack = Stack(*pairs[0])
    first = stack.place([(slice(0, 1), *pairs[0])])
    assert first is not None
    assert not first.stale
    stack.place([(slice(0, 1), *pairs[1])])
    assert first.stale


def test_one_pair_may_stand_in_a_batch_twice() -> None:
    pairs = [pair(seed) for seed in range(2)]
    check(Stack(*pairs[0]), members([(0, 2), (1, 1), (0, 3)], pairs, 1))


def test_slots_of_the_gone_are_taken_again() -> None:
    stack = Stack(*pair(0))
    for seed in range(200):
        one = pair(seed)
        check(stack, [(slice(0, 2), *one)])
        del one  # the last reference
    assert len(stack.down) == 8


def test_more_than_all_slots() -> None:
    pairs = [pair(seed) for seed in range(70)]
    stack = Stack(*pairs[0])
    assert stack.place(members([(i, 1) for i in range(70)], pairs, 0)) is None
    check(stack, members([(i, 1) for i in range(60)], pairs, 0))
    check(stack, members([(i, 1) for i in range(10, 70)], pairs, 0))


# ---- the pool: what all stacks of a backbone take


def one_size() -> int:
    return Stack.first_size(*pair(0))


def filled(budget: MemoryBudget, count: int = 8, sites: tuple[str, ...] = ("site",)) -> tuple[StackPool, list]:
    pool = StackPool()
    pool.use(budget)
    pairs = [pair(seed) for seed in range(count)]
    for site in sites:
        assert pool.place(site, members([(i, 1) for i in range(count)], pairs, 0)) is not None
    return pool, pairs


def test_stacks_are_counted_as_they_grow() -> None:
    budget = MemoryBudget(100 * one_size())
    pool, pairs = filled(budget, 8, ("a", "b"))
    assert budget.used == pool.nbytes == 2 * one_size()
    more = [pair(seed) for seed in range(8, 17)]
    assert pool.place("a", members([(i, 1) for i in range(9)], more, 0)) is not None
    assert budget.used == pool.nbytes == 5 * one_size()  # 17 pairs need 32 slots
    assert pairs


def test_stacks_take_half_of_the_budget_at_most_and_leave_what_adapters_have() -> None:
    budget = MemoryBudget(3 * one_size())
    pool, pairs = filled(budget)
    made = members([(i, 1) for i in range(8)], pairs, 0)
    assert pool.place("other", made) is None
    assert budget.used == one_size()
    pool.clear()
    assert budget.take(3 * one_size() - 1)
    assert pool.place("site", made) is None
    assert budget.used == 3 * one_size() - 1


def test_a_stack_that_cannot_grow_takes_turns() -> None:
    budget = MemoryBudget(3 * one_size())
    pool, pairs = filled(budget)
    others = [pair(seed) for seed in range(20, 26)]
    rows = pool.place("site", made := members([(i, 1) for i in range(6)], others, 0))
    assert rows is not None
    x, y = torch.randn(8, IN), torch.zeros(8, OUT)
    rows.add(x, y)
    for own, down, up in made:
        torch.testing.assert_close(y[own], x[own] @ down.T @ up)
    assert budget.used == one_size()
    assert pool.place("site", members([(i, 1) for i in range(9)], [*pairs, *others], 0)) is None


def test_stacks_go_with_the_pairs_that_leave() -> None:
    budget = MemoryBudget(100 * one_size())
    pool, pairs = filled(budget, 16)
    rows = pool.place("site", made := members([(15, 1)], pairs, 0))
    assert rows is not None
    assert budget.used == 2 * one_size()
    pool.forget([("site", down) for down, _ in pairs[:4]] + [("elsewhere", pairs[5][0])])
    assert budget.used == 2 * one_size()
    assert not rows.stale
    pool.forget([("site", down) for down, _ in pairs[4:12]])
    assert budget.used == pool.nbytes == 0  # so few are left that they are better laid anew
    assert rows.stale
    x, y = torch.randn(4, IN), torch.zeros(4, OUT)
    rows.add(x, y)  # a batch under way finishes
    torch.testing.assert_close(y[made[0][0]], x[made[0][0]] @ made[0][1].T @ made[0][2])
    assert pool.place("site", made) is not None
    pool.forget([("site", pairs[15][0])])
    assert budget.used == 0


def test_a_batch_of_loras_gives_the_same_with_and_without_room(bert: Backbone) -> None:
    """And nothing is left of them on the device once they have left their slots."""
    pool = stack_pool(bert.kept)
    adapters = [tiny.bound(bert, tiny.adapter(bert, "lora", seed)) for seed in range(5)]
    rows = [tiny.row(bert, adapter, "w1 w2 w3") for adapter in adapters]
    budget = MemoryBudget(1 << 30)
    pool.use(budget)
    stacked = tiny.run(bert, rows)
    assert budget.used == pool.nbytes > 0
    for adapter in adapters:
        adapter.release(bert)
    assert budget.used == pool.nbytes == 0
    pool.use(MemoryBudget(1))
    assert tiny.difference(tiny.run(bert, rows), stacked) < tiny.CLOSE
    assert pool.nbytes == 0
    pool.use(MemoryBudget())

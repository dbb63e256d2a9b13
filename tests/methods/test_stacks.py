"""Pairs of many adapters in one product: the same as one after another, whoever comes and goes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.methods.stacks import Stack

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

"""Packed batches within a budget."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.kinds.examples import EncodedExample
from manyhats.training.batches import batch_size_for, ordered_batches, shuffled_batches


def _of_lengths(lengths: list[int]) -> list[EncodedExample]:
    return [EncodedExample([i] * length, [0] * length, 0, False) for i, length in enumerate(lengths)]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), budget=st.integers(1, 120))
def test_every_item_stands_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    made = _of_lengths(lengths)
    shuffled = shuffled_batches(made, budget, torch.Generator().manual_seed(0))
    assert sorted(item.ids[0] for batch in shuffled for item in batch) == list(range(len(made)))
    ordered = ordered_batches(made, budget)
    assert sorted(i for batch in ordered for i in batch) == list(range(len(made)))
    for sizes in ([[len(x.ids) for x in b] for b in shuffled], [[lengths[i] for i in b] for b in ordered]):
        assert all(sum(batch) <= budget or len(batch) == 1 for batch in sizes)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), most=st.integers(1, 9))
def test_a_batch_has_no_more_examples_than_its_size(lengths: list[int], most: int) -> None:
    made = shuffled_batches(_of_lengths(lengths), 120, torch.Generator().manual_seed(0), most)
    assert sorted(item.ids[0] for batch in made for item in batch) == list(range(len(lengths)))
    assert all(len(batch) <= most for batch in made)
    loose = shuffled_batches(_of_lengths(lengths), 50 * most, torch.Generator().manual_seed(0), most)
    assert [len(batch) for batch in loose[:-1]] == [most] * (len(loose) - 1)


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_more_rows_never_have_smaller_batches(some: int, others: int) -> None:
    few, many = sorted((some, others))
    assert 1 <= batch_size_for(few) <= batch_size_for(many)

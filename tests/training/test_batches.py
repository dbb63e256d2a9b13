"""Examples as tokens, and packed batches within a budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.training.batches import IGNORED, Item, encode_examples, ordered_batches, shuffled_batches
from manyhats.training.rows import Example


def _of_lengths(lengths: list[int]) -> list[Item]:
    return [Item([i] * length, [0] * length, 0, False) for i, length in enumerate(lengths)]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), budget=st.integers(1, 120))
def test_every_item_stands_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    made = _of_lengths(lengths)
    shuffled = shuffled_batches(made, budget, torch.Generator().manual_seed(0))
    assert sorted(item.ids[0] for batch in shuffled for item in batch) == list(range(len(made)))
    ordered = ordered_batches(made, budget)
    assert sorted(i for batch in ordered for i in batch) == list(range(len(made)))
    for sizes in ([[len(x.ids) for x in b] for b in shuffled], [[lengths[i] for i in b] for b in ordered]):
        assert all(sum(batch) <= budget or len(batch) == 1 for batch in sizes)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_words_carry_their_tag_on_their_first_token(load_backbone: Callable[[str], Backbone], family: str) -> None:
    examples = [Example("", None, ("w1", "w2", "w3"), ("A", "B", "A"))]
    backbone = load_backbone(family)
    (item,) = encode_examples(examples, "tokens", ["A", "B"], backbone, 40)
    assert item.target == [IGNORED, 0, 1, 0, IGNORED]
    (cut,) = encode_examples(examples, "tokens", ["A", "B"], backbone, 4)
    assert (cut.target, cut.cut, len(cut.ids)) == ([IGNORED, 0, 1, IGNORED], True, 4)


def test_pairs_are_encoded_together(bert: Backbone) -> None:
    (item,) = encode_examples([Example("w1 w2", "w3", (), "B")], "classify", ["A", "B"], bert, 40)
    assert (len(item.ids), item.type_ids, item.target) == (6, [0, 0, 0, 0, 1, 1], 1)

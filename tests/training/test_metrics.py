"""Scores and their intervals."""

from __future__ import annotations

import math

import pytest
import torch
from manyhats.training.batches import IGNORED, Item
from manyhats.training.metrics import Score, score, wilson


def test_wilson_gives_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for right, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


def test_only_the_first_token_of_a_word_counts() -> None:
    item = Item([1, 2, 3, 4], [0] * 4, [IGNORED, 0, IGNORED, 1], False)
    output = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert score("tokens", [output], [item]) == Score("tokens", 0.5, 2)


def test_numbers_are_judged_by_their_squared_error() -> None:
    items = [Item([1], [0], 2.0, False), Item([1], [0], -1.0, False)]
    found = score("regress", [torch.tensor([3.0]), torch.tensor([-1.0])], items)
    assert found == Score("regress", 0.5, 2)
    assert found.interval == (0.0, 1.0)  # drawn from two errors
    assert Score("regress", 0.5, 2).interval is None
    assert found.better_than(Score("regress", 0.6, 2))
    assert not Score("regress", math.nan, 2).better_than(None)


def test_more_is_better_for_accuracy() -> None:
    assert Score("classify", 0.6, 5).better_than(Score("classify", 0.5, 5))
    assert not Score("classify", 0.5, 5).better_than(Score("classify", 0.5, 5))
    assert str(Score("classify", 0.525, 40)) == "52.5 %"

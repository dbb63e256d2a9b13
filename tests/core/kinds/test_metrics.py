"""Scores and their intervals."""

from __future__ import annotations

import math

import pytest
import torch
from manyhats.core.kinds.examples import IGNORED, EncodedExample
from manyhats.core.kinds.metrics import Score, wilson
from manyhats.core.kinds.registry import TRAININGS


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
    example = EncodedExample([1, 2, 3, 4], [0] * 4, [IGNORED, 0, IGNORED, 1], False)
    output = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert TRAININGS["tokens"].score([output], [example]) == Score(TRAININGS["tokens"].metric, 0.5, 2)


def test_numbers_are_judged_by_their_squared_error() -> None:
    examples = [EncodedExample([1], [0], 2.0, False), EncodedExample([1], [0], -1.0, False)]
    found = TRAININGS["regress"].score([torch.tensor([3.0]), torch.tensor([-1.0])], examples)
    assert found == Score(TRAININGS["regress"].metric, 0.5, 2)
    assert found.interval == (0.0, 1.0)  # drawn from two errors
    assert Score(TRAININGS["regress"].metric, 0.5, 2).interval is None
    assert found.better_than(Score(TRAININGS["regress"].metric, 0.6, 2))
    assert not Score(TRAININGS["regress"].metric, math.nan, 2).better_than(None)


def test_more_is_better_for_accuracy() -> None:
    assert Score(TRAININGS["classify"].metric, 0.6, 5).better_than(Score(TRAININGS["classify"].metric, 0.5, 5))
    assert not Score(TRAININGS["classify"].metric, 0.5, 5).better_than(Score(TRAININGS["classify"].metric, 0.5, 5))
    assert str(Score(TRAININGS["classify"].metric, 0.525, 40)) == "52.5 %"

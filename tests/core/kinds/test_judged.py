"""Each kind judges answers by its metric, and knows when two versions agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.registry import KINDS, TRAININGS
from manyhats.core.kinds.rows import example_of
from manyhats.errors import InvalidRequest


def examples(name: str, *rows: dict[str, Any]) -> list[Example]:
    return [example_of(row, TRAININGS[name], Columns()) for row in rows]


def word(text: str, start: int, label: str) -> dict[str, Any]:
    return {"text": text, "start": start, "end": start + len(text), "label": label, "score": 1.0}


@pytest.mark.parametrize(
    ("name", "rows", "answers", "value", "count"),
    [
        ("classify", [{"text": "a", "label": x} for x in "xyx"], [{"label": x} for x in "xxx"], 2 / 3, 3),
        (
            "multilabel",
            [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}],
            [{"labels": ["x"]}, {"labels": ["z"]}],
            2 / 4,
            2,
        ),
        ("regress", [{"text": "a", "label": 1}, {"text": "b", "label": 3}], [{"value": 2.0}, {"value": 3.0}], 0.5, 2),
        (
            "rerank",
            [{"text": "a", "document": "b", "label": x} for x in (1, 0, 0.7)],
            [{"score": 0.6}, {"score": 0.6}, {"score": 0.5}],
            2 / 3,
            3,
        ),
        (
            "tokens",
            [{"tokens": ["Ada", "lives", "here"], "tags": ["P", "O", "O"]}],
            # A word of two tokens, one whose token begins with the space before, and one that was cut off.
            [{"tokens": [word("A", 0, "P"), word("da", 1, "O"), word(" lives", 3, "P")]}],
            1 / 2,
            2,
        ),
        (
            "span",
            [{"text": "who?", "context": "by Ada", "label": "Ada"}] * 2,
            [{"answer": "Ada"}, {"answer": "by Ada"}],
            1 / 2,
            2,
        ),
        (
            "embed",
            [{"text": "a", "pair": "b"}, {"text": "c", "pair": "d"}],
            [{"embedding": np.array(v, np.float32)} for v in ([1, 0], [0, 2], [5, 0], [3, -1])],
            1 / 2,
            2,
        ),
        ("generate", [{"text": "a", "label": "b"}] * 2, [{"text": " b\n"}, {"text": "bb"}], 1 / 2, 2),
    ],
)
def test_answers_are_judged(name: str, rows: list[Any], answers: list[Any], value: float, count: int) -> None:
    training = TRAININGS[name]
    given = examples(name, *rows)
    score = training.judged(answers, given)
    assert score.value == pytest.approx(value)
    assert (score.count, score.metric) == (count, training.answer_metric)
    assert len(training.questions(given)) == len(answers)


def test_words_that_are_all_cut_off_give_no_value() -> None:
    given = examples("tokens", {"tokens": ["a"], "tags": ["O"]})
    assert math.isnan(TRAININGS["tokens"].judged([{"tokens": []}], given).value)


def test_a_vector_for_each_token_cannot_be_judged() -> None:
    given = examples("embed", {"text": "a", "pair": "b"})
    with pytest.raises(InvalidRequest, match="pooling is 'none'"):
        TRAININGS["embed"].judged([{"embedding": np.zeros((2, 3), np.float32)}] * 2, given)


def entity(group: str, start: int, score: float = 1.0) -> dict[str, Any]:
    return {"entity_group": group, "word": "x", "start": start, "end": start + 1, "score": score}


@pytest.mark.parametrize(
    ("kind", "one", "other", "agrees"),
    [
        ("classify", {"label": "x", "score": 0.9}, {"label": "x", "score": 0.6}, True),
        ("classify", {"label": "x"}, {"label": "y"}, False),
        ("classify", {"label": "x", "labels": ["x"]}, {"label": "x", "labels": ["x", "y"]}, False),
        ("tokens", {"entities": [entity("P", 0, 0.9)]}, {"entities": [entity("P", 0, 0.5)]}, True),
        ("tokens", {"entities": [entity("P", 0)]}, {"entities": [entity("P", 1)]}, False),
        ("regress", {"value": 1.0}, {"value": 1.04}, True),
        ("regress", {"value": 1.0}, {"value": 1.06}, False),
        ("rerank", {"score": 0.5}, {"score": 0.56}, False),
        ("span", {"answer": "a", "start": 1, "end": 2}, {"answer": "a", "start": 1, "end": 2, "score": 0}, True),
        ("span", {"answer": "a", "start": 1, "end": 2}, {"answer": "a", "start": 5, "end": 6}, False),
        ("generate", {"text": "a", "finish_reason": "stop"}, {"text": "a", "finish_reason": "stop"}, True),
        ("generate", {"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "stop"}, False),
        ("embed", {"embedding": np.array([1, 0.1])}, {"embedding": np.array([2, 0.1])}, True),
        ("embed", {"embedding": np.array([1, 0])}, {"embedding": np.array([1, 1])}, False),
        ("embed", {"embedding": np.ones((2, 3))}, {"embedding": np.ones((3, 3))}, False),
    ],
)  # fmt: skip
def test_agreement_is_of_what_is_said(kind: str, one: Any, other: Any, agrees: bool) -> None:
    assert KINDS[kind].agrees(one, other, 0.05) is agrees
    assert KINDS[kind].agrees(one, one, 0.0)

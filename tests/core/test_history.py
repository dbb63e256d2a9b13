"""The course of a training in a model card: what is read of it, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.history import FIELD, POINTS, history_of, history_warnings
from manyhats.errors import InvalidRequest

GOOD: dict[str, Any] = {
    "metric": "accuracy",
    "more_is_better": True,
    "steps": [5, 10],
    "losses": [0.7, 0.4],
    "epochs": [1],
    "epoch_losses": [0.55],
    "scores": [0.9],
    "best_epoch": 1,
}


def card(value: str) -> str:
    return f'---\nlibrary_name: "manyhats"\n{FIELD}: {value}\n---\n\n# spam\n'


def test_the_curves_are_read_from_the_head() -> None:
    found = history_of(card(json.dumps(GOOD)))
    assert found is not None
    assert found.model_dump() == GOOD
    assert history_warnings(card(json.dumps(GOOD))) == ()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "# A card",
        '---\nlibrary_name: "x"\n---\n',
        f"# A card\n{FIELD}: {{}}\n",
        f"---\na: 1\n---\n{FIELD}: 1\n",
    ],
)
def test_a_card_without_curves_has_none(text: str | None) -> None:
    assert history_of(text) is None
    assert history_warnings(text) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [5]},
        {"scores": []},
        {"steps": [10, 5]},
        {"epochs": [0]},
        {"losses": [0.7, "0.4"]},
        {"losses": [0.7, float("nan")]},
        {"scores": [float("inf")]},
        {"metric": "m" * 101},
        {"best_epoch": 0},
        {"further": 1},
        {"steps": list(range(1, POINTS + 2)), "losses": [0.5] * (POINTS + 1)},
        {"epochs": list(range(1, POINTS + 2)), "epoch_losses": [0.5] * (POINTS + 1), "scores": [0.5] * (POINTS + 1)},
    ],
)
def test_curves_of_another_form_are_refused_with_a_short_reason(change: dict[str, Any]) -> None:
    text = card(json.dumps(GOOD | change))
    with pytest.raises(InvalidRequest, match=f"^the card's {FIELD} cannot be read: "):
        history_of(text)
    (warning,) = history_warnings(text)
    assert len(warning) < 300


@pytest.mark.parametrize("value", ["", "{", "[" * 50_000, "null", '"x"', "1e999"])
def test_what_is_no_object_of_json_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest):
        history_of(card(value))


@given(st.text())
def test_no_text_ends_in_another_error(value: str) -> None:
    assert len(history_warnings(card(value))) <= 1

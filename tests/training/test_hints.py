"""What to try next: each hint where its condition holds, and not where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from manyhats.core.kinds.baselines import Baseline
from manyhats.core.kinds.examples import Columns
from manyhats.core.kinds.metrics import Metric, Score
from manyhats.core.kinds.registry import TRAININGS
from manyhats.core.kinds.rows import example_of
from manyhats.methods.recipe import Schedule
from manyhats.training.card import Report
from manyhats.training.data import Dataset
from manyhats.training.hints import Facts, next_steps, unbeaten
from manyhats.training.recipes import FULL_NAME
from manyhats.training.trainer import Outcome

ACCURACY = Metric("accuracy", "accuracy", proportion=True, more_is_better=True)
LOSS = Metric("mean squared error", "mse")


def score(value: float, count: int = 10_000, metric: Metric = ACCURACY) -> Score:
    return Score(metric, value, count)


def dataset(rows: int, rare: int) -> Dataset:
    kind = TRAININGS["classify"]
    labels = ["spam"] * rare + ["ham"] * (rows - rare)
    examples = [example_of({"text": f"t{i}", "label": x}, kind, Columns()) for i, x in enumerate(labels)]
    return Dataset(kind, examples, [], [], ["ham", "spam"], [], [])


def outcome(losses: list[float], steps: int, **more: Any) -> Outcome:
    each = max(steps // len(losses), 1)
    values: dict[str, Any] = {
        "validation": score(0.8),
        "best_epoch": len(losses),
        "epochs": len(losses),
        "steps": steps,
        "seconds": 1.0,
        "losses": tuple(losses),
        "scores": (0.8,) * len(losses),
        "step_losses": tuple(loss for loss in losses for _ in range(each)),
        "stopped": None,
    }
    return Outcome(**(values | more))


def report(**change: Any) -> Report:
    """A run with nothing to say about it: many rows, even labels, a loss that has stopped falling, no gap."""
    values: dict[str, Any] = {
        "task": "spam",
        "method": "lora",
        "options": {},
        "rank": 8,
        "backbone": "tiny",
        "backbone_sha256": "0" * 64,
        "dataset": dataset(2000, 900),
        "truncated": 0,
        "max_tokens": 64,
        "schedule": Schedule(1e-3, epochs=3, batch_size=16),
        "outcome": outcome([0.7, 0.3, 0.295], 600),
        "test": score(0.8),
        "baselines": (Baseline("always", score(0.6)), Baseline("probe", score(0.85))),
        "parameters": (1000, 10),
        "nbytes": 1000,
        "machine": "here",
    }
    return Report(**(values | change))


FACTS = Facts(seen=score(0.86), inputs=2500, longest=512, weighted=False)


def hints(change: dict[str, Any], facts: Facts = FACTS) -> list[str]:
    return next_steps(report(**change), facts)


def test_nothing_is_said_of_a_run_that_beats_the_baselines() -> None:
    better = report(test=score(0.9), baselines=(Baseline("probe", score(0.85)), Baseline(FULL_NAME, score(0.95))))
    assert unbeaten(better) == []
    assert next_steps(better, replace(FACTS, seen=score(1.0))) == []


def test_the_best_baseline_that_is_not_beaten_comes_first_and_a_tie_is_not_a_win() -> None:
    lines = (Baseline("always", score(0.8)), Baseline("probe", score(0.85)), Baseline("worse", score(0.7)))
    assert [name for name, _ in unbeaten(report(baselines=lines))] == ["probe", "always"]
    errors = (Baseline("mean", score(2.0, metric=LOSS)), Baseline("probe", score(1.5, metric=LOSS)))
    assert [name for name, _ in unbeaten(report(test=score(2.5, metric=LOSS), baselines=errors))] == ["probe", "mean"]


def test_a_run_with_nothing_to_say_about_it_gets_no_boilerplate() -> None:
    assert hints({}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"outcome": outcome([0.7, 0.4, 0.9], 600, best_epoch=2)},
            "The loss rose again: take smaller steps, --learning-rate 0.00033 (it was 0.001).",
        ),
        (
            {"outcome": outcome([0.7, 0.4], 600, diverged=True, stopped="The loss ...")},
            "The loss was no finite number in the end: take smaller steps, --learning-rate 0.00033 (it was 0.001).",
        ),
        (
            {"outcome": outcome([0.7, 0.69, 0.69], 600, best_epoch=1)},
            "The loss hardly fell, from 0.7 to 0.69: take larger steps, --learning-rate 0.003 (it was 0.001).",
        ),
        (
            {"outcome": outcome([0.7, 0.5, 0.3], 600)},
            "The loss still fell in the last epoch, from 0.7 to 0.3, and that epoch was the best: train longer, "
            "--epochs 6 (it was 3).",
        ),
        (
            {"outcome": outcome([0.7, 0.5, 0.3], 60), "schedule": Schedule(1e-3, epochs=3, batch_size=16)},
            "60 steps are few: take smaller batches, --batch-size 8 (it was about 16).",
        ),
        (
            {"outcome": outcome([0.7, 0.5, 0.3], 60), "schedule": Schedule(1e-3, epochs=3)},
            "60 steps are few: take smaller batches, --batch-size 50 (it was about 100).",
        ),
        (
            {"truncated": 300},
            "300 of 2500 inputs were cut after 64 tokens: read more of them, --max-tokens 128.",
        ),
        (
            {"dataset": dataset(2000, 400)},
            "The label 'ham' has 1600 rows and 'spam' 400: weigh the labels, --class-weights balanced.",
        ),
        (
            {"test": score(0.8, 100), "baselines": (Baseline("probe", score(0.82, 100)),)},
            "100 held-out inputs cannot tell the two apart (the 95 % interval includes 82.0 %): hold out more, with "
            "--test.",
        ),
        (
            {"dataset": dataset(200, 90)},
            "200 rows are few: label more of them, or compare all methods with --sweep all.",
        ),
    ],
)
def test_a_hint_for_each_condition(change: dict[str, Any], said: str) -> None:
    assert said in hints(change)


@pytest.mark.parametrize(
    ("change", "facts", "word"),
    [
        ({"outcome": outcome([0.7, 0.4, 0.41], 600, best_epoch=2)}, FACTS, "rose"),
        ({"outcome": outcome([0.7, 0.5, 0.3], 600, stopped="No better", best_epoch=2)}, FACTS, "still fell"),
        ({"outcome": outcome([0.7, 0.5, 0.3], 600)}, FACTS, "steps are few"),
        ({"outcome": outcome([0.7, 0.5, 0.3], 60), "schedule": Schedule(1e-3, batch_size=4)}, FACTS, "steps are few"),
        ({"truncated": 240}, FACTS, "were cut"),
        ({"truncated": 300, "max_tokens": 512}, FACTS, "were cut"),
        ({"dataset": dataset(2000, 410)}, FACTS, "weigh"),
        ({"dataset": dataset(2000, 100)}, replace(FACTS, weighted=True), "weigh"),
        ({"dataset": dataset(500, 240)}, FACTS, "rows are few"),
    ],
)
def test_no_hint_where_its_condition_does_not_hold(change: dict[str, Any], facts: Facts, word: str) -> None:
    assert not [hint for hint in hints(change, facts) if word in hint]


def test_a_method_that_is_too_large_or_too_small_is_told_by_its_own_option() -> None:
    (heart,) = hints({}, replace(FACTS, seen=score(0.95)))
    assert heart == (
        "It learned its rows by heart, 95.0 % on rows that it was trained on, 80.0 % on others: a smaller method, "
        "--option rank=4 (it was 8), or more rows."
    )
    (unfit,) = hints({}, replace(FACTS, seen=score(0.82)))
    assert unfit == (
        "It does not fit its own rows either, 82.0 % on rows that it was trained on, 80.0 % on others: a larger "
        "method, --option rank=16 (it was 8)."
    )
    (width,) = hints({"method": "houlsby", "rank": 24}, replace(FACTS, seen=score(0.82)))
    assert "--option width=48 (it was 24)" in width
    (several,) = hints({"method": "mam", "rank": 24}, replace(FACTS, seen=score(0.95)))
    assert "--option bottleneck.width=12 (it was 24)" in several
    (unsized,) = hints({"method": "bitfit", "rank": None}, replace(FACTS, seen=score(0.82)))
    assert "--option" not in unsized
    assert "a method with more numbers" in unsized


def test_a_gap_of_a_metric_of_which_less_is_better() -> None:
    change = {"test": score(2.0, metric=LOSS), "baselines": (Baseline("probe", score(1.5, metric=LOSS)),)}
    (heart,) = hints(change, replace(FACTS, seen=score(1.2, metric=LOSS)))
    assert "by heart" in heart
    assert hints(change, replace(FACTS, seen=score(1.4, metric=LOSS))) == []


def test_the_order_and_the_number_of_hints() -> None:
    change = {
        "outcome": outcome([0.7, 0.5, 0.3], 60),
        "dataset": dataset(200, 20),
        "truncated": 100,
        "test": score(0.8, 20),
        "baselines": (Baseline("probe", score(0.85, 20)),),
    }
    found = hints(change, replace(FACTS, seen=score(0.99), inputs=250))
    assert [hint.split()[0] for hint in found] == ["60", "The", "It", "100", "The"]

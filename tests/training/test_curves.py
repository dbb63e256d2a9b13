"""The curves as numbers: few points, whatever the training's length."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.history import POINTS, history_of
from manyhats.core.kinds.metrics import Metric, Score
from manyhats.training.curves import history
from manyhats.training.trainer import Outcome

ACCURACY = Metric("accuracy", "accuracy", proportion=True, more_is_better=True)


def outcome(losses: list[float], scores: list[float], step_losses: list[float], best: int = 1) -> Outcome:
    return Outcome(
        validation=Score(ACCURACY, 0.5, 10),
        best_epoch=best,
        epochs=len(losses),
        steps=len(step_losses),
        seconds=1.0,
        losses=tuple(losses),
        scores=tuple(scores),
        step_losses=tuple(step_losses),
        stopped=None,
    )


def test_a_short_training_keeps_every_step_and_epoch() -> None:
    found = history(outcome([0.6, 0.3], [0.8, math.nan], [0.75, 0.45, 0.3123456, 0.25]), ACCURACY)
    assert (found.steps, found.losses) == ([1, 2, 3, 4], [0.75, 0.45, 0.31235, 0.25])
    assert (found.epochs, found.epoch_losses, found.scores) == ([1, 2], [0.6, 0.3], [0.8, None])
    assert (found.metric, found.more_is_better, found.best_epoch) == ("accuracy", True, 1)


def test_a_point_is_the_mean_of_the_steps_since_the_one_before() -> None:
    found = history(outcome([0.5], [0.5], [float(i % 2) for i in range(2 * POINTS)]), ACCURACY)
    assert found.steps == list(range(2, 2 * POINTS + 1, 2))
    assert found.losses == [0.5] * POINTS


@given(steps=st.integers(0, 20 * POINTS), epochs=st.integers(1, 5 * POINTS), data=st.data())
def test_the_points_are_few_and_the_best_and_last_epoch_are_among_them(
    steps: int, epochs: int, data: st.DataObject
) -> None:
    best = data.draw(st.integers(1, epochs))
    found = history(outcome([0.5] * epochs, [0.5] * epochs, [0.5] * steps, best), ACCURACY)
    assert len(found.steps) <= POINTS
    assert (found.steps[-1:] or [0]) == [steps]
    assert len(found.epochs) <= POINTS
    assert {1, best, epochs} <= {*found.epochs}
    assert history_of(f"---\ntraining_history: {found.model_dump_json()}\n---\n") == found

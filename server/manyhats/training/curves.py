"""The curves of a training: as numbers for the model card, and as a picture."""

from __future__ import annotations

import math
from pathlib import Path

from manyhats.core.history import POINTS, TrainingHistory
from manyhats.core.kinds.metrics import Metric
from manyhats.training.trainer import Outcome

CURVES = "curves.png"
_SMOOTH = 0.95  # of the moving mean over the steps' losses
_DIGITS = 5  # that a number in a card has


def history(outcome: Outcome, metric: Metric) -> TrainingHistory:
    """The curves in at most so many points as a card holds: losses as means over equally many steps, and of very many
    epochs some, the best and the last among them."""
    width = max(math.ceil(len(outcome.step_losses) / POINTS), 1)
    steps, losses = [], []
    for start in range(0, len(outcome.step_losses), width):
        some = outcome.step_losses[start : start + width]
        steps.append(start + len(some))
        losses.append(_short(sum(some) / len(some)))
    every = math.ceil(len(outcome.losses) / (POINTS - 2))
    epochs = sorted({*range(1, len(outcome.losses) + 1, max(every, 1)), outcome.best_epoch, len(outcome.losses)})
    scores = [outcome.scores[epoch - 1] for epoch in epochs]
    return TrainingHistory(
        metric=metric.name,
        more_is_better=metric.more_is_better,
        steps=steps,
        losses=losses,
        epochs=epochs,
        epoch_losses=[_short(outcome.losses[epoch - 1]) for epoch in epochs],
        scores=[_short(score) if math.isfinite(score) else None for score in scores],
        best_epoch=outcome.best_epoch,
    )


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def plot(outcome: Outcome, metric: str, path: Path) -> None:
    """Losses of all steps with their moving mean, and the validation metric of every epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    smooth: list[float] = []
    for value in outcome.step_losses:
        smooth.append(value if not smooth else _SMOOTH * smooth[-1] + (1 - _SMOOTH) * value)
    losses.plot(range(1, len(smooth) + 1), outcome.step_losses, color="0.8", linewidth=0.8)
    losses.plot(range(1, len(smooth) + 1), smooth, color="C0")
    losses.set(xlabel="step", ylabel="loss")
    epochs = range(1, len(outcome.scores) + 1)
    scores.plot(epochs, outcome.scores, marker="o", color="C0")
    scores.axvline(outcome.best_epoch, color="0.6", linestyle=":")
    scores.set(xlabel="epoch", ylabel=f"validation {metric}")
    scores.set_xticks(list(epochs))
    figure.savefig(path, dpi=120)

"""The curves of a training, as a picture."""

from __future__ import annotations

from pathlib import Path

from manyhats.training.trainer import Outcome

CURVES = "curves.png"
_SMOOTH = 0.95  # of the moving mean over the steps' losses


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

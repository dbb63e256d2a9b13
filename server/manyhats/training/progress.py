"""The display of a training's progress: a bar on a terminal, else one line for every epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manyhats.core.kinds.metrics import Score


class Watcher(Protocol):
    """Receives a training's progress."""

    def resumed(self, steps: int) -> None:
        """Before the first step of a resumed run. `steps`: done before."""

    def step(self, epoch: int, loss: float) -> None:
        """After every step. `loss`: of this step's batch."""

    def epoch(self, epoch: int, loss: float, score: Score, seconds: float) -> None:
        """After every epoch, counted from 1. `loss`: mean over its steps; `seconds`: since training began."""


class NoWatcher:
    """Ignores all progress."""

    def resumed(self, steps: int) -> None:
        pass

    def step(self, epoch: int, loss: float) -> None:
        pass

    def epoch(self, epoch: int, loss: float, score: Score, seconds: float) -> None:
        pass


class Display:
    """Shows progress on a console; used as a context manager around the training."""

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int) -> None:
        self._console = console
        self._epochs = epochs
        self._smooth: float | None = None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("validation {task.fields[score]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=epochs * steps_per_epoch, loss="-", score="-")

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def resumed(self, steps: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=steps)
            return
        self._console.print(f"going on after step {steps}", highlight=False)

    def step(self, epoch: int, loss: float) -> None:
        if self._bar is None:
            return
        # One batch's loss is noisy; a moving mean over about twenty is displayed.
        self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        self._bar.update(self._task, advance=1, description=f"epoch {epoch}/{self._epochs}", loss=f"{self._smooth:.4f}")

    def epoch(self, epoch: int, loss: float, score: Score, seconds: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, score=str(score))
            return
        self._console.print(
            f"epoch {epoch}/{self._epochs}: loss {loss:.4f}, validation {score.name} {score}, {seconds:.0f} s",
            soft_wrap=True,
            highlight=False,
        )

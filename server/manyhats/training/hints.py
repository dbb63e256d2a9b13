"""What to try next after a training that does not beat the simple baselines, from the run's own facts.

Each hint has a condition, and names the option with a value; the order is that of what helps most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from manyhats.core.kinds.baselines import Baseline
from manyhats.core.kinds.metrics import Score
from manyhats.training.card import Report
from manyhats.training.recipes import FULL_NAME, size_option

SEEN = 500  # of the training rows, that the adapter is judged on to compare
_SHARE = 0.1  # of the steps, that the loss of the beginning and of the end is the mean over
_HARDLY = 0.9  # of the loss of the beginning: what is above this has hardly been learned from
_STILL = 0.95  # of the loss of the epoch before: what is below this still falls
_ROSE = 1.2  # of the lowest loss of an epoch: what is above this has gone wrong
_FEW_STEPS = 150
_SMALLEST_BATCH = 4
_GAP = 0.1  # by which the score on seen rows is better, of a metric in 0..1
_GAP_FACTOR = 1.5  # the same of a metric of which less is better
_CUT = 0.1  # of the inputs
_UNEVEN = 4  # times as many rows as the rarest label has
_FEW_ROWS = 500
_MOST_HINTS = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What the hints look at, beside the report.

    `seen`: the score on (some of) the rows it was trained on. `inputs`: how many there are, of all splits. `longest`:
    the tokens that an input may have at most with this method. `weighted`: whether labels have weights.
    """

    seen: Score
    inputs: int
    longest: int
    weighted: bool


def unbeaten(report: Report) -> list[Baseline]:
    """The simple baselines that are as good as the adapter on the test data, or better; the best first."""
    found = [one for one in report.baselines if one.name != FULL_NAME and not report.test.better_than(one.score)]
    sign = -1 if report.test.metric.more_is_better else 1
    return sorted(found, key=lambda one: sign * one.score.value)


def next_steps(report: Report, facts: Facts) -> list[str]:
    """Sentences, what helps most first; none where the adapter beats the baselines."""
    if not unbeaten(report):
        return []
    loss = _Loss(report)
    found = [*_rate_and_steps(report, loss)]
    found += _fit(report, facts, loss)
    found += _inputs(report, facts)
    found += _rows(report)
    return found[:_MOST_HINTS]


class _Loss:
    """How the training loss went."""

    def __init__(self, report: Report) -> None:
        outcome = report.outcome
        losses, steps = outcome.losses, outcome.step_losses
        some = max(round(_SHARE * len(steps)), 1)
        begin, end = sum(steps[:some]) / some, sum(steps[-some:]) / some
        rose = bool(losses) and losses[-1] > _ROSE * min(losses)
        self.diverged = outcome.diverged or rose
        self.stuck = not self.diverged and end > _HARDLY * begin
        last = outcome.best_epoch == outcome.epochs and outcome.stopped is None
        falls = len(losses) < 2 or losses[-1] < _STILL * losses[-2]
        self.falling = last and falls and not self.diverged and not self.stuck
        self.text = f"from {begin:.3g} to {end:.3g}"


def _rate_and_steps(report: Report, loss: _Loss) -> Iterator[str]:
    """What the course of the loss says of the schedule."""
    schedule, outcome = report.schedule, report.outcome
    rate = schedule.learning_rate
    if loss.diverged:
        what = "The loss was no finite number in the end" if outcome.diverged else "The loss rose again"
        yield f"{what}: take smaller steps, --learning-rate {rate / 3:.2g} (it was {rate:.2g})."
    if (loss.stuck or loss.falling) and outcome.steps < _FEW_STEPS:
        yield from _more_steps(report)
    if loss.stuck:
        yield (
            f"The loss hardly fell, {loss.text}: take larger steps, --learning-rate {3 * rate:.2g} (it was {rate:.2g})."
        )
    if loss.falling:
        yield (
            f"The loss still fell in the last epoch, {loss.text}, and that epoch was the best: train longer, "
            f"--epochs {2 * schedule.epochs} (it was {schedule.epochs})."
        )


def _more_steps(report: Report) -> Iterator[str]:
    """Smaller batches make more steps of the same rows."""
    size, rows, steps = report.schedule.batch_size, len(report.dataset.train), report.outcome.steps
    mean = round(rows * report.outcome.epochs / max(steps, 1))
    size = mean if size is None else min(size, mean)
    if size > _SMALLEST_BATCH:
        yield (
            f"{steps} steps are few: take smaller batches, --batch-size {max(size // 2, _SMALLEST_BATCH)} "
            f"(it was about {size})."
        )


def _fit(report: Report, facts: Facts, loss: _Loss) -> Iterator[str]:
    """Whether the method has too many numbers for the rows, or too few."""
    if loss.diverged or loss.stuck:
        return
    option = size_option(report.method)
    size = report.rank
    gap = f"{facts.seen} on rows that it was trained on, {report.test} on others"
    if _is_gap(facts.seen, report.test):
        smaller = (
            f"a smaller method, --option {option}={size // 2} (it was {size}), or "
            if option and size and size > 1
            else ""
        )
        yield f"It learned its rows by heart, {gap}: {smaller}more rows."
        return
    best = unbeaten(report)[0]
    if loss.falling or facts.seen.better_than(best.score):
        return
    if option and size:
        yield (
            f"It does not fit its own rows either, {gap}: a larger method, --option {option}={2 * size} "
            f"(it was {size})."
        )
    else:
        yield f"It does not fit its own rows either, {gap}: a method with more numbers; --sweep all compares them."


def _is_gap(seen: Score, others: Score) -> bool:
    if seen.metric.more_is_better:
        return seen.value - others.value > _GAP
    return others.value > _GAP_FACTOR * seen.value


def _inputs(report: Report, facts: Facts) -> Iterator[str]:
    """Texts that were cut, and labels that are rare."""
    if report.truncated > _CUT * facts.inputs and report.max_tokens < facts.longest:
        longer = min(2 * report.max_tokens, facts.longest)
        yield (
            f"{report.truncated} of {facts.inputs} inputs were cut after {report.max_tokens} tokens: read more of "
            f"them, --max-tokens {longer}."
        )
    dataset = report.dataset
    counts = {label: dataset.count(label) for label in dataset.labels}
    if counts and not facts.weighted:
        most, least = max(counts, key=lambda x: counts[x]), min(counts, key=lambda x: counts[x])
        if counts[most] >= _UNEVEN * counts[least]:
            yield (
                f"The label '{most}' has {counts[most]} rows and '{least}' {counts[least]}: weigh the labels, "
                "--class-weights balanced."
            )


def _rows(report: Report) -> Iterator[str]:
    """Whether there are too few rows, to learn from or to judge by."""
    best, test = unbeaten(report)[0], report.test
    if test.interval is not None and test.interval[0] <= best.score.value <= test.interval[1]:
        yield (
            f"{test.count} held-out {report.dataset.kind.unit} cannot tell the two apart (the 95 % interval includes "
            f"{best.score}): hold out more, with --test."
        )
    rows = len(report.dataset.train)
    if rows < _FEW_ROWS:
        yield f"{rows} rows are few: label more of them, or compare all methods with --sweep all."


def show(report: Report, console: Console) -> None:
    """Prints the report's hints, where a simple baseline is not beaten."""
    worse = unbeaten(report)
    if not worse:
        return
    end = "To try next:" if report.hints else "Nothing in the run itself says why."
    lines = [
        f"It does not beat this: {worse[0].name} ({report.test}, against {worse[0].score}). {end}",
        *(f"{number}. {hint}" for number, hint in enumerate(report.hints, start=1)),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)

"""How good predictions are: accuracy, F1, the mean squared error of numbers, or the loss of an answer's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.training.batches import IGNORED, Item
from manyhats.training.rows import TaskKind

_NAMES: dict[TaskKind, str] = {
    "classify": "accuracy",
    "multilabel": "F1 over all labels",
    "tokens": "accuracy per word",
    "regress": "mean squared error",
    "span": "exact match",
    "embed": "own pair found first",
    "generate": "loss per token of the answer",
}
_SHARES = ("classify", "tokens", "span", "embed")
_Z = 1.959964  # of a 95 % interval
_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over `count` judged places: inputs, words for `tokens`, tokens of answers for `generate` (whose loss is
    in nats). Shares lie in 0..1. `parts`: what each input adds, (inputs, n), where the metric is no share."""

    kind: TaskKind
    value: float
    count: int
    parts: tuple[tuple[float, ...], ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """What the value is."""
        return _NAMES[self.kind]

    def better_than(self, other: Score | None) -> bool:
        """Whether this is the better of two scores of one kind; any number is better than none."""
        if not math.isfinite(self.value):
            return False
        if other is None:
            return True
        return self.value > other.value if self.more_is_better else self.value < other.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %: Wilson's of a share, else the bootstrap's over inputs (Efron 1979, percentiles); None without parts."""
        if self.kind in _SHARES:
            return wilson(round(self.value * self.count), self.count)
        return bootstrap(self.parts) if len(self.parts) > 1 else None

    @property
    def more_is_better(self) -> bool:
        """Whether it is a share or F1."""
        return self.kind in _SHARES or self.kind == "multilabel"

    def __str__(self) -> str:
        return self.shown(self.value)

    def shown(self, value: float) -> str:
        """A value of this metric as text."""
        return f"{100 * value:.1f} %" if self.more_is_better else f"{value:.4f}"


def wilson(right: int, count: int, z: float = _Z) -> tuple[float, float]:
    """The interval that holds a share with 95 % (Wilson 1927; the form of Agresti & Coull 1998, section 1)."""
    share = right / count
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def bootstrap(parts: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The middle 95 % of the ratio of sums over inputs drawn with replacement; the draws are always the same."""
    table = np.array(parts)
    drawn = np.random.default_rng(0).integers(0, len(table), (_DRAWS, len(table)))
    values = [_ratio(table[rows].sum(0)) for rows in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _ratio(sums: Sequence[float]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def joined(scores: Sequence[Score]) -> Score:
    """One score of several groups of inputs; each has parts."""
    parts = tuple(part for one in scores for part in one.parts)
    return Score(scores[0].kind, _ratio(np.array(parts).sum(0)), sum(one.count for one in scores), parts)


def score(kind: TaskKind, outputs: Sequence[Tensor], items: Sequence[Item]) -> Score:
    """Compares the forward pass's outputs with the items' targets."""
    match kind:
        case "regress":
            errors = [(float(o[0]) - float(i.target)) ** 2 for o, i in zip(outputs, items, strict=True)]  # type: ignore[arg-type]
            return of_parts(kind, [(error, 1.0) for error in errors])
        case "generate":
            sums = [
                float(F.cross_entropy(o.float(), torch.tensor(i.target, device=o.device), reduction="sum"))
                for o, i in zip(outputs, items, strict=True)
            ]
            counts = [len(item.asked) for item in items]
            return of_parts(kind, list(zip(sums, counts, strict=True)), sum(counts))
        case "multilabel":
            found = [(o > 0).long().cpu() for o in outputs]
            return f1(found, [torch.tensor(item.target) for item in items])
        case "span":
            pairs = zip(outputs, items, strict=True)
            matches = sum(best_span(output, item.context) == item.target for output, item in pairs)
            return Score(kind, matches / len(items), len(items))
    right = count = 0
    for output, item in zip(outputs, items, strict=True):
        target = torch.tensor(item.target, device=output.device)
        hits = (output.argmax(-1) == target)[target != IGNORED]
        right += int(hits.sum())
        count += hits.numel()
    return Score(kind, right / count, count)


def of_parts(kind: TaskKind, parts: Sequence[tuple[float, float]], count: int | None = None) -> Score:
    """The ratio of two sums over inputs."""
    sums = math.fsum(a for a, _ in parts), math.fsum(b for _, b in parts)
    return Score(kind, _ratio(sums), len(parts) if count is None else count, tuple(parts))


def f1(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Score:
    """2 tp / (2 tp + fp + fn) over all labels together (micro); (labels,) of 0 and 1 for each input."""
    parts = [(2.0 * int((a & b).sum()), float(int(a.sum()) + int(b.sum()))) for a, b in zip(found, wanted, strict=True)]
    return of_parts("multilabel", parts)


def best_span(logits: Tensor, context: slice) -> list[int]:
    """First and last token of the likeliest answer. logits: (tokens, 2), start and end; `context`: where it may lie."""
    start, end = torch.log_softmax(logits[context].float(), dim=0).unbind(-1)
    before = torch.ones(len(start), len(start), dtype=torch.bool, device=logits.device).tril(-1)
    sums = (start[:, None] + end[None, :]).masked_fill(before, float("-inf"))
    first, last = divmod(int(sums.argmax()), len(start)) if len(start) else (0, 0)
    return [context.start + first, context.start + last]

"""How good predictions are: accuracy, the mean squared error of numbers, or the loss of an answer's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.training.batches import IGNORED, Item
from manyhats.training.data import TaskKind

_NAMES: dict[TaskKind, str] = {
    "classify": "accuracy",
    "tokens": "accuracy per word",
    "regress": "mean squared error",
    "generate": "loss per token of the answer",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over `count` judged places: inputs, words for `tokens`, tokens of answers for `generate` (whose loss is
    in nats). Accuracies lie in 0..1."""

    kind: TaskKind
    value: float
    count: int

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
        return self.value > other.value if self.is_share else self.value < other.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval of an accuracy; None for other metrics."""
        return wilson(round(self.value * self.count), self.count) if self.is_share else None

    @property
    def is_share(self) -> bool:
        """Whether it is an accuracy, and more is better."""
        return self.kind in ("classify", "tokens")

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} %" if self.is_share else f"{self.value:.4f}"


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval that holds a share with 95 % (Wilson 1927; the form of Agresti & Coull 1998, section 1)."""
    share = right / count
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def score(kind: TaskKind, outputs: Sequence[Tensor], items: Sequence[Item]) -> Score:
    """Compares the forward pass's outputs with the items' targets."""
    if kind == "regress":
        errors = [(float(o[0]) - float(i.target)) ** 2 for o, i in zip(outputs, items, strict=True)]  # type: ignore[arg-type]
        return Score(kind, math.fsum(errors) / len(errors), len(errors))
    if kind == "generate":
        sums = [
            float(F.cross_entropy(o.float(), torch.tensor(i.target, device=o.device), reduction="sum"))
            for o, i in zip(outputs, items, strict=True)
        ]
        count = sum(len(item.asked) for item in items)
        return Score(kind, math.fsum(sums) / count, count)
    right = count = 0
    for output, item in zip(outputs, items, strict=True):
        target = torch.tensor(item.target, device=output.device)
        hits = (output.argmax(-1) == target)[target != IGNORED]
        right += int(hits.sum())
        count += hits.numel()
    return Score(kind, right / count, count)

"""Metrics: a metric, a score, and its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from manyhats.core.kinds.examples import IGNORED, EncodedExample

_Z = 1.959964  # of a 95 % interval
_RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score measures. `name`: as displayed; `hub_name`: Hugging Face's, on a model card. `proportion`: whether
    it is a share of judged positions. Metrics of which more is better are in 0..1."""

    name: str
    hub_name: str
    proportion: bool = False
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over `count` judged positions: inputs, words for `tokens`, tokens of answers for `generate` (whose loss
    is in nats). `terms`: each input's contribution to the ratio's two sums, (inputs, 2), for metrics other than
    proportions.
    """

    metric: Metric
    value: float
    count: int
    terms: tuple[tuple[float, ...], ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.name

    def better_than(self, other: Score | None) -> bool:
        """Whether this is the better of two scores of one kind; any number is better than none."""
        if not math.isfinite(self.value):
            return False
        if other is None:
            return True
        return self.value > other.value if self.metric.more_is_better else self.value < other.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %: Wilson's of a proportion, else the bootstrap's over inputs (Efron 1979, percentiles); None without
        terms."""
        if self.metric.proportion:
            return wilson(round(self.value * self.count), self.count)
        return bootstrap(self.terms) if len(self.terms) > 1 else None

    def __str__(self) -> str:
        return self.format_value(self.value)

    def format_value(self, value: float) -> str:
        """A value of this metric as text."""
        return f"{100 * value:.1f} %" if self.metric.more_is_better else f"{value:.4f}"


def wilson(right: int, count: int) -> tuple[float, float]:
    """The interval that holds a proportion with 95 % (Wilson 1927; the form of Agresti & Coull 1998, section 1)."""
    share = right / count
    centre = share + _Z * _Z / (2 * count)
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z * _Z / (4 * count * count))
    scale = 1 + _Z * _Z / count
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def bootstrap(terms: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The middle 95 % of the ratio of sums over inputs sampled with replacement, with a fixed seed."""
    table = np.array(terms)
    resampled = np.random.default_rng(0).integers(0, len(table), (_RESAMPLES, len(table)))
    values = [_ratio(table[rows].sum(0)) for rows in resampled]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _ratio(sums: Sequence[float]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def share(metric: Metric, right: Sequence[bool]) -> Score:
    """The share of what is right; none of it: nan."""
    return Score(metric, sum(right) / len(right) if right else math.nan, len(right))


def joined(scores: Sequence[Score]) -> Score:
    """The score over several groups of inputs, each of which has terms."""
    terms = tuple(term for one in scores for term in one.terms)
    return Score(scores[0].metric, _ratio(np.array(terms).sum(0)), sum(one.count for one in scores), terms)


def ratio(metric: Metric, terms: Sequence[tuple[float, float]], count: int | None = None) -> Score:
    """The ratio of two sums over inputs. `count`: of judged positions, by default one for each input."""
    sums = math.fsum(a for a, _ in terms), math.fsum(b for _, b in terms)
    return Score(metric, _ratio(sums), len(terms) if count is None else count, tuple(terms))


def accuracy(metric: Metric, logits: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
    """The share of positions whose largest logit is the target's. logits: (labels,) or (tokens, labels) of each
    input."""
    right = count = 0
    for output, example in zip(logits, examples, strict=True):
        target = torch.tensor(example.target, device=output.device)
        hits = (output.argmax(-1) == target)[target != IGNORED]
        right += int(hits.sum())
        count += hits.numel()
    return Score(metric, right / count, count)


def f1(metric: Metric, predicted: Sequence[Tensor], expected: Sequence[Tensor]) -> Score:
    """2 tp / (2 tp + fp + fn) over all labels together (micro); (labels,) of 0 and 1 for each input."""
    pairs = zip(predicted, expected, strict=True)
    return ratio(metric, [(2.0 * int((a & b).sum()), float(int(a.sum()) + int(b.sum()))) for a, b in pairs])

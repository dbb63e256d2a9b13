"""Baselines of a kind: one answer for all inputs, and a linear model on frozen states.

The linear models need scikit-learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from manyhats.core.kinds.examples import IGNORED, EncodedExample
from manyhats.core.kinds.metrics import Metric, Score

Array = np.ndarray[Any, np.dtype[Any]]

# Inverse strengths of the penalty; the best on the validation data is used.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
_ITERATIONS = 200


class Baseline(NamedTuple):
    """A baseline and its score on the test data."""

    name: str
    score: Score


def judged_targets(examples: Sequence[EncodedExample]) -> list[Any]:
    """The target of each judged position: input or word."""
    return [
        target
        for example in examples
        for target in (example.target if isinstance(example.target, list) else [example.target])
        if target != IGNORED or not isinstance(example.target, list)
    ]


def commonest_answer(metric: Metric, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
    """The score of the training data's commonest class on every test input, or word."""
    answer = Counter(judged_targets(train)).most_common(1)[0][0]
    targets = judged_targets(test)
    right = sum(target == answer for target in targets)
    return Baseline("always the commonest answer", Score(metric, right / len(targets), len(targets)))


class Probe(ABC):
    """A linear model on the frozen model's states: the mean over a text's tokens, or, `per_token`, the state of every
    judged token."""

    per_token: ClassVar[bool] = False

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def targets(self, examples: Sequence[EncodedExample]) -> list[Any]:
        """The target of each row of the states."""
        return judged_targets(examples)

    @abstractmethod
    def models(self) -> list[Any]:
        """Models of scikit-learn, one for each of `STRENGTHS`."""

    @abstractmethod
    def score(self, answers: Array, targets: Array) -> Score:
        """Compares a model's answers with the targets."""


class ClassProbe(Probe):
    """A logistic regression."""

    def models(self) -> list[Any]:
        from sklearn.linear_model import LogisticRegression

        return [LogisticRegression(C=strength, max_iter=_ITERATIONS) for strength in STRENGTHS]

    def score(self, answers: Array, targets: Array) -> Score:
        return Score(self.metric, float(np.mean(answers == targets)), len(targets))


class TokenProbe(ClassProbe):
    """A logistic regression on the states of words' first tokens."""

    per_token = True

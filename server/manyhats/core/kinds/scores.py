"""From logits to probabilities, and the names of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FEW = 16  # labels


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    scores: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return scores


def softmax_scores(logits: NDArray[np.float32]) -> list[float]:
    """Over the labels of one text: (labels,). Few of them are faster one by one than as arrays."""
    values: list[float]
    if len(logits) > _FEW:
        values = softmax(logits).astype(np.float32).tolist()
        return values
    values = logits.tolist()
    highest = max(values)
    exponentials = [math.exp(value - highest) for value in values]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Elementwise."""
    return (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)


def label_names(labels: Sequence[str] | None, count: int) -> list[str]:
    """The task's labels, or `LABEL_0`, `LABEL_1`, ..."""
    return list(labels) if labels is not None else [f"LABEL_{i}" for i in range(count)]

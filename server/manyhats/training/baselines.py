"""What an adapter must beat: always the commonest answer, and a linear probe on the bare backbone.

The probe is a logistic regression (for numbers a ridge regression) on the frozen model's states: the mean over a
text's tokens, or for words the state of each word's first token. Needs scikit-learn.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from manyhats.methods.bound_adapter import BARE
from manyhats.training.batches import IGNORED, Item, Items
from manyhats.training.evaluation import evaluate, predict
from manyhats.training.libraries import require
from manyhats.training.metrics import Score, f1, of_parts
from manyhats.training.rows import TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

    Array = np.ndarray[Any, np.dtype[Any]]

# Inverse strengths of the penalty that are tried; the one that is best on the validation data is taken.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)

_MOST_ROWS = 40_000  # inputs or words that the probe learns from; more would take longer than the adapter
_ITERATIONS = 200


def of(backbone: Backbone, kind: TaskKind, items: Items, seed: int) -> list[tuple[str, Score]]:
    """What an adapter of this kind must beat, by name."""
    if kind in ("generate", "embed"):
        return [("the bare backbone", evaluate(backbone, BARE, kind, items.test))]
    if kind == "span":
        return [("always the context's beginning", beginnings(items))]
    always = "always the mean" if kind == "regress" else "always the commonest answer"
    return [
        (always, majority(kind, items)),
        ("linear probe on the frozen backbone", probe(backbone, kind, items, seed)),
    ]


def majority(kind: TaskKind, items: Items) -> Score:
    """Every test input gets the training data's commonest answer, or their mean."""
    if kind == "multilabel":
        commonest = Counter(tuple(item.target) for item in items.train if any(item.target)).most_common(1)[0][0]  # type: ignore[arg-type]
        wanted = [torch.tensor(item.target) for item in items.test]
        return f1([torch.tensor(commonest)] * len(wanted), wanted)
    train, test = _targets(items.train), _targets(items.test)
    if kind == "regress":
        mean = math.fsum(train) / len(train)
        return of_parts(kind, [((t - mean) ** 2, 1.0) for t in test])
    answer = Counter(train).most_common(1)[0][0]
    return Score(kind, sum(t == answer for t in test) / len(test), len(test))


def beginnings(items: Items) -> Score:
    """As many of the context's first tokens as an answer mostly has."""
    lengths = Counter(i.target[1] - i.target[0] for i in items.train if i.target[0] != IGNORED)  # type: ignore[index]
    more = lengths.most_common(1)[0][0]
    right = sum(item.target == [item.context.start, item.context.start + more] for item in items.test)
    return Score("span", right / len(items.test), len(items.test))


def probe(backbone: Backbone, kind: TaskKind, items: Items, seed: int) -> Score:
    """The test score of a linear model on frozen states. Raises ConfigurationError without scikit-learn."""
    require("sklearn", "the linear probe")
    from sklearn.preprocessing import StandardScaler

    parts = {"train": _sample(items.train, kind, seed), "validation": items.validation, "test": items.test}
    states = {name: _states(backbone, kind, part) for name, part in parts.items()}
    targets = {name: np.array(_targets(part, kind)) for name, part in parts.items()}
    scaler = StandardScaler().fit(states["train"])
    scaled = {name: scaler.transform(rows) for name, rows in states.items()}
    best: tuple[Score, Any] | None = None
    for model in _models(kind):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the iterations ran out shows in the score
            model.fit(scaled["train"], targets["train"])
        found = _score(kind, model, scaled["validation"], targets["validation"])
        if best is None or found.better_than(best[0]):
            best = found, model
    assert best is not None
    return _score(kind, best[1], scaled["test"], targets["test"])


def _sample(items: Sequence[Item], kind: TaskKind, seed: int) -> list[Item]:
    """All items, or as many in a random order as hold the most places that the probe learns from."""
    order = list(items)
    random.Random(seed).shuffle(order)
    places = itertools.accumulate(len(_targets([item], kind)) for item in order)
    return [item for item, sum_of_places in zip(order, places, strict=True) if sum_of_places <= _MOST_ROWS]


def _models(kind: TaskKind) -> list[Any]:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if kind == "regress":
        return [Ridge(alpha=1 / strength) for strength in STRENGTHS]
    models = [LogisticRegression(C=strength, max_iter=_ITERATIONS) for strength in STRENGTHS]
    return [OneVsRestClassifier(model) for model in models] if kind == "multilabel" else models


def _score(kind: TaskKind, model: Any, rows: Array, targets: Array) -> Score:
    answers = model.predict(rows)
    if kind == "regress":
        return of_parts(kind, [(float(error), 1.0) for error in (answers - targets) ** 2])
    if kind == "multilabel":
        return f1(list(torch.from_numpy(answers).long()), list(torch.from_numpy(targets)))
    return Score(kind, float(np.mean(answers == targets)), len(targets))


def _targets(items: Sequence[Item], kind: TaskKind = "tokens") -> list[Any]:
    """One for each judged place: input or word; of `multilabel` all labels of an input."""
    if kind == "multilabel":
        return [item.target for item in items]
    return [
        target
        for item in items
        for target in (item.target if isinstance(item.target, list) else [item.target])
        if target != IGNORED or not isinstance(item.target, list)
    ]


def _states(backbone: Backbone, kind: TaskKind, items: Sequence[Item]) -> Array:
    """(places, hidden), in the order of `_targets`."""
    tokens = kind == "tokens"
    outputs = predict(backbone, BARE, items, "none" if tokens else "mean")
    if not tokens:
        return np.stack([output.float().cpu().numpy() for output in outputs])
    rows = []
    for output, item in zip(outputs, items, strict=True):
        assert isinstance(item.target, list)
        judged = [i for i, target in enumerate(item.target) if target != IGNORED]
        rows.append(output[judged].float().cpu().numpy())
    return np.concatenate(rows)

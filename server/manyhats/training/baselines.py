"""Baselines: one answer for all inputs, the bare backbone, and a linear probe on it.

The probe is a logistic regression (for numbers a ridge regression) on the frozen model's states: the mean over a
text's tokens, or for words the state of each word's first token. Needs scikit-learn.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manyhats.core.kinds.baselines import Array, Baseline, Probe
from manyhats.core.kinds.examples import IGNORED, EncodedExample
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.training import KindTraining
from manyhats.methods.bound_adapter import BARE
from manyhats.training.batches import EncodedDataset
from manyhats.training.evaluation import evaluate, predict
from manyhats.training.libraries import require

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_MAX_ROWS = 40_000  # inputs or words that the probe learns from; more would take longer than the adapter


def of(backbone: Backbone, kind: KindTraining, dataset: EncodedDataset, seed: int) -> list[Baseline]:
    """The baselines of a kind."""
    found = []
    if kind.served_as.head is None:
        found.append(Baseline("the bare backbone", evaluate(backbone, BARE, kind, dataset.test)))
    constant = kind.constant_baseline(dataset.train, dataset.test)
    if constant is not None:
        found.append(constant)
    if kind.probe is not None:
        found.append(Baseline("linear probe on the frozen backbone", probe(backbone, kind.probe, dataset, seed)))
    return found


def probe(backbone: Backbone, probe: Probe, dataset: EncodedDataset, seed: int) -> Score:
    """The test score of a linear model on frozen states. Raises ConfigurationError without scikit-learn."""
    require("sklearn", "the linear probe")
    from sklearn.preprocessing import StandardScaler

    splits = {"train": _sample(dataset.train, probe, seed), "validation": dataset.validation, "test": dataset.test}
    states = {name: _states(backbone, probe, split) for name, split in splits.items()}
    targets = {name: np.array(probe.targets(split)) for name, split in splits.items()}
    scaler = StandardScaler().fit(states["train"])
    scaled = {name: scaler.transform(rows) for name, rows in states.items()}
    best: tuple[Score, Any] | None = None
    for model in probe.models():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not converged shows in the score
            model.fit(scaled["train"], targets["train"])
        found = probe.score(model.predict(scaled["validation"]), targets["validation"])
        if best is None or found.better_than(best[0]):
            best = found, model
    assert best is not None
    return probe.score(best[1].predict(scaled["test"]), targets["test"])


def _sample(examples: Sequence[EncodedExample], probe: Probe, seed: int) -> list[EncodedExample]:
    """All examples, or as many in a random order as hold the most positions that the probe learns from."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    sums = itertools.accumulate(len(probe.targets([example])) for example in order)
    return [example for example, positions in zip(order, sums, strict=True) if positions <= _MAX_ROWS]


def _states(backbone: Backbone, probe: Probe, examples: Sequence[EncodedExample]) -> Array:
    """(positions, hidden), in the order of the probe's targets."""
    outputs = predict(backbone, BARE, examples, "none" if probe.per_token else "mean")
    if not probe.per_token:
        return np.stack([output.float().cpu().numpy() for output in outputs])
    rows = []
    for output, example in zip(outputs, examples, strict=True):
        assert isinstance(example.target, list)
        judged = [i for i, target in enumerate(example.target) if target != IGNORED]
        rows.append(output[judged].float().cpu().numpy())
    return np.concatenate(rows)

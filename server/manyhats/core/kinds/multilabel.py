"""Several labels for one text: `classify`, trained with a yes or no for each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.nn import functional as F

from manyhats.core.kinds.base import Answer, Parameters
from manyhats.core.kinds.baselines import Array, Baseline, ClassProbe
from manyhats.core.kinds.classify import Classify
from manyhats.core.kinds.examples import EncodedExample, Example, Label, TextRow
from manyhats.core.kinds.metrics import Metric, Score, f1, ratio
from manyhats.core.kinds.training import LabelledTraining, TargetScale

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _labels(value: Any) -> Any:
    """A list of labels, or one text with commas between them; empty for none."""
    return [label for label in map(str.strip, value.split(",")) if label] if isinstance(value, str) else value


class LabelsRow(TextRow):
    """A text with any number of labels."""

    target: Annotated[list[Label], BeforeValidator(_labels)]

    def example(self) -> Example:
        return Example(self.text, self.pair, (), tuple(self.target))


class LabelsProbe(ClassProbe):
    """A logistic regression for each label."""

    def targets(self, examples: Sequence[EncodedExample]) -> list[Any]:
        return [example.target for example in examples]

    def models(self) -> list[Any]:
        from sklearn.multiclass import OneVsRestClassifier

        return [OneVsRestClassifier(model) for model in super().models()]

    def score(self, answers: Array, targets: Array) -> Score:
        return f1(self.metric, list(torch.from_numpy(answers).long()), list(torch.from_numpy(targets)))


class MultilabelTraining(LabelledTraining):
    """Any number of a set of labels for a text: binary cross entropy for each."""

    name = "multilabel"
    served_as = Classify()
    row = LabelsRow
    metric = Metric("F1 over all labels", "f1", more_is_better=True)
    min_labels = 1  # one label is enough: it may be absent
    probe = LabelsProbe(metric)

    def label_count(self, example: Example, label: str) -> int:
        return int(label in self.labels(example))

    def target(self, example: Example, index: Mapping[str, int]) -> list[int]:
        return [int(label in self.labels(example)) for label in index]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        targets = torch.tensor([example.target for example in batch], device=outputs[0].device)
        logits = torch.stack(list(outputs)).float()
        return F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weights)

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        predicted = [(output > 0).long().cpu() for output in outputs]
        return f1(self.metric, predicted, [torch.tensor(example.target) for example in examples])

    def judges(self, parameters: Parameters) -> bool:
        return bool(getattr(parameters, "multi_label", False))

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        pairs = [(set(a["labels"]), set(self.labels(e))) for a, e in zip(answers, examples, strict=True)]
        return ratio(self.metric, [(2.0 * len(a & b), float(len(a) + len(b))) for a, b in pairs])

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        labelled = [tuple(e.target) for e in train if isinstance(e.target, list) and any(e.target)]
        commonest = torch.tensor(Counter(labelled).most_common(1)[0][0])
        expected = [torch.tensor(example.target) for example in test]
        return Baseline("always the commonest answer", f1(self.metric, [commonest] * len(expected), expected))

    def settings(self, backbone: Backbone) -> Mapping[str, Any]:
        return {"defaults": {"multi_label": True}}

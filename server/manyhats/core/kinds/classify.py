"""A label for a whole text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from manyhats.core.kinds.base import OVER_TEXT, Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered, S
from manyhats.core.kinds.baselines import Baseline, ClassProbe, commonest_answer
from manyhats.core.kinds.examples import EncodedExample, Example, Label, TextRow
from manyhats.core.kinds.metrics import Metric, Score, accuracy, share
from manyhats.core.kinds.scores import label_names, sigmoid, softmax_scores
from manyhats.core.kinds.training import LabelledTraining, TargetScale
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class ClassifyParameters(Parameters):
    """`top_k`: only the k best labels in `scores`. `multi_label`: each label independently (sigmoid)."""

    logits: bool = False
    top_k: Annotated[int, Field(ge=1)] | None = None
    multi_label: bool = False


class Classify(Kind[ClassifyParameters]):
    """One of the head's labels, or with `multi_label` any of them."""

    name = "classify"
    head = HeadSpec(reads=OVER_TEXT)
    fields = (("label", "text"), ("score", "number"), ("scores", "numbers"))
    parameters = ClassifyParameters
    libraries = LibraryNames(
        peft="SEQ_CLS",
        model_classes=("ForSequenceClassification",),
        auto_class="AutoModelForSequenceClassification",
        problem_types=("single_label_classification", "multi_label_classification"),
        adapterhub=("classification", "multilabel_classification"),
        pipeline="text-classification",
    )

    def complete(
        self, parameters: ClassifyParameters, settings: S, backbone: Backbone, num_labels: int | None
    ) -> tuple[ClassifyParameters, S]:
        """The score of a head with one output is a sigmoid: over one label alone a softmax is always 1.

        Raises InvalidRequest where `multi_label` is false for such a head.
        """
        if num_labels != 1:
            return parameters, settings
        if "multi_label" in parameters.model_fields_set and not parameters.multi_label:
            raise InvalidRequest(
                "the head has one output, whose softmax is always 1; leave multi_label out, or set it to true",
                param="parameters.multi_label",
            )
        return parameters.model_copy(update={"multi_label": True}), settings

    def render(self, output: Output, parameters: ClassifyParameters, rendered: Rendered) -> Answer:
        """The best label, and every label's score. output: (labels,)."""
        names = label_names(rendered.labels, len(output))
        values = sigmoid(output).tolist() if parameters.multi_label else softmax_scores(output)
        best = values.index(max(values))
        ranked: Sequence[int] = range(len(names))
        if parameters.top_k is not None:
            ranked = sorted(ranked, key=values.__getitem__, reverse=True)[: parameters.top_k]
        answer: Answer = {
            "label": names[best],
            "score": values[best],
            "scores": {names[i]: values[i] for i in ranked},
        }
        if parameters.multi_label:
            answer["labels"] = [name for name, score in zip(names, values, strict=True) if score >= 0.5]
        if parameters.logits:
            answer["logits"] = output.tolist()
        return answer

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """The same label, or with `multi_label` the same labels."""
        return bool(answer.get("labels", answer["label"]) == other.get("labels", other["label"]))


class ClassRow(TextRow):
    """A text with one label."""

    target: Label

    def example(self) -> Example:
        return Example(self.text, self.pair, (), self.target)


class ClassifyTraining(LabelledTraining):
    """One of a set of labels for a text: cross entropy."""

    name = "classify"
    served_as = Classify()
    row = ClassRow
    metric = Metric("accuracy", "accuracy", proportion=True, more_is_better=True)
    probe = ClassProbe(metric)

    def stratum(self, example: Example) -> Any:
        return example.target

    def target(self, example: Example, index: Mapping[str, int]) -> int:
        return index[str(example.target)]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        targets = torch.tensor([example.target for example in batch], device=outputs[0].device)
        return F.cross_entropy(torch.stack(list(outputs)).float(), targets, weights)

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        return accuracy(self.metric, outputs, examples)

    def judges(self, parameters: Parameters) -> bool:
        return not getattr(parameters, "multi_label", False)

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        return share(self.metric, [a["label"] == e.target for a, e in zip(answers, examples, strict=True)])

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        return commonest_answer(self.metric, train, test)

"""A value for a whole text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from manyhats.core.kinds.base import OVER_TEXT, Answer, HeadSpec, Kind, LibraryNames, Output, Parameters, Rendered
from manyhats.core.kinds.baselines import STRENGTHS, Array, Baseline, Probe, judged_targets
from manyhats.core.kinds.examples import EncodedExample, Example, TextRow
from manyhats.core.kinds.metrics import Metric, Score, ratio
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.methods.heads import Head


class RegressParameters(Parameters):
    """No further parameters."""


class Regress(Kind[RegressParameters]):
    """The head's one output as it is."""

    name = "regress"
    head = HeadSpec(reads=OVER_TEXT, outputs=1)
    fields = (("value", "number"),)
    parameters = RegressParameters
    libraries = LibraryNames(
        peft="SEQ_CLS",
        auto_class="AutoModelForSequenceClassification",
        problem_types=("regression",),
        adapterhub=("classification",),
        pipeline="text-classification",
    )

    def check_head(self, head: Head) -> None:
        """Accepts any number of outputs, since existing stores may have files with more; the value is the first."""

    def render(self, output: Output, parameters: RegressParameters, rendered: Rendered) -> Answer:
        """output: (1,)."""
        return {"value": float(output[0])}

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """Values that differ by no more than the tolerance."""
        return bool(abs(answer["value"] - other["value"]) <= tolerance)


class NumberRow(TextRow):
    """A text with a number."""

    target: float = Field(allow_inf_nan=False)

    def example(self) -> Example:
        return Example(self.text, self.pair, (), self.target)


class NumberProbe(Probe):
    """A ridge regression."""

    def models(self) -> list[Any]:
        from sklearn.linear_model import Ridge

        return [Ridge(alpha=1 / strength) for strength in STRENGTHS]

    def score(self, answers: Array, targets: Array) -> Score:
        return ratio(self.metric, [(float(error), 1.0) for error in (answers - targets) ** 2])


class RegressTraining(KindTraining):
    """A number for a text: the squared error, of numbers of mean 0 and standard deviation 1."""

    name = "regress"
    served_as = Regress()
    row = NumberRow
    metric = Metric("mean squared error", "mse")
    probe = NumberProbe(metric)

    def check_data(self, train: Sequence[Example], labels: Sequence[str], name: str) -> None:
        if len({example.target for example in train}) < 2:
            raise InvalidRequest(f"every row of {name} has the same number; there is nothing to learn", param="data")

    def target(self, example: Example, index: Mapping[str, int]) -> float:
        return float(example.target)  # type: ignore[arg-type]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        std = (scale or TargetScale()).std
        targets = torch.tensor([example.target for example in batch], device=outputs[0].device)
        return F.mse_loss(torch.stack(list(outputs)).float()[:, 0] / std, targets.float() / std)

    def target_scale(self, train: Sequence[EncodedExample]) -> TargetScale:
        targets = judged_targets(train)
        mean = math.fsum(targets) / len(targets)
        return TargetScale(mean, math.sqrt(math.fsum((t - mean) ** 2 for t in targets) / len(targets)))

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        pairs = zip(outputs, judged_targets(examples), strict=True)
        return ratio(self.metric, [((float(output[0]) - float(target)) ** 2, 1.0) for output, target in pairs])

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        pairs = zip(answers, examples, strict=True)
        return ratio(self.metric, [((a["value"] - float(e.target)) ** 2, 1.0) for a, e in pairs])  # type: ignore[arg-type]

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        targets = judged_targets(train)
        mean = math.fsum(targets) / len(targets)
        return Baseline("always the mean", ratio(self.metric, [((t - mean) ** 2, 1.0) for t in judged_targets(test)]))

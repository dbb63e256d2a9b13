"""How well a document answers a query, by a cross-encoder, which reads both in one pass (Nogueira & Cho 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from manyhats.core.kinds.base import (
    OVER_TEXT,
    Answer,
    HeadSpec,
    Kind,
    LibraryNames,
    Output,
    Parameters,
    Rendered,
)
from manyhats.core.kinds.baselines import Baseline, ClassProbe
from manyhats.core.kinds.examples import Columns, EncodedExample, Example, NonEmptyText, TextRow
from manyhats.core.kinds.metrics import Metric, Score, share
from manyhats.core.kinds.scores import sigmoid
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.errors import InvalidRequest


class RerankParameters(Parameters):
    """`raw_scores`: the head's output instead of its sigmoid."""

    raw_scores: bool = False


class Rerank(Kind[RerankParameters]):
    """The relevance of a document (the pair) to a query (the text); larger is better."""

    name = "rerank"
    head = HeadSpec(reads=OVER_TEXT, outputs=1)
    pair = ("query", "document")
    fields = (("score", "number"),)
    parameters = RerankParameters
    libraries = LibraryNames(
        peft="SEQ_CLS",
        auto_class="AutoModelForSequenceClassification",
        adapterhub=("classification",),
        pipeline="text-ranking",
    )

    def activation_warning(self, activation: str, file: str) -> str | None:
        """None for CrossEncoder's sigmoid, which the score has."""
        if activation == "Sigmoid":
            return None
        return f"the activation {activation} in {file} is not applied; a score is a sigmoid of the head's output"

    def render(self, output: Output, parameters: RerankParameters, rendered: Rendered) -> Answer:
        """output: (1,)."""
        return {"score": float((output if parameters.raw_scores else sigmoid(output))[0])}

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """Scores that differ by no more than the tolerance."""
        return bool(abs(answer["score"] - other["score"]) <= tolerance)


class RelevanceRow(TextRow):
    """A query, a document, and how relevant that is: 0 or 1, or a number between."""

    pair: NonEmptyText
    target: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

    def example(self) -> Example:
        return Example(self.text, self.pair, (), self.target)


def _relevant(examples: Sequence[EncodedExample]) -> list[int]:
    """The classes of the examples: 1 for relevant, else 0."""
    return [int(_is_relevant(example)) for example in examples]


def _is_relevant(example: Example | EncodedExample) -> bool:
    assert isinstance(example.target, (int, float))
    return example.target >= 0.5


class RelevanceProbe(ClassProbe):
    """A logistic regression of what is relevant."""

    def targets(self, examples: Sequence[EncodedExample]) -> list[int]:
        return _relevant(examples)


class RerankTraining(KindTraining):
    """The relevance of a document to a query: binary cross-entropy, as sentence-transformers' CrossEncoder has it.

    The metric is accuracy at 0.5 of each pair. Mean reciprocal rank would need several documents for each held-out
    query, which a file of pairs may not have. The interval of accuracy is exact, and the baseline of the commonest
    answer shows the share of irrelevant documents.
    """

    name = "rerank"
    served_as = Rerank()
    row = RelevanceRow
    metric = Metric("accuracy at 0.5", "accuracy", proportion=True, more_is_better=True)
    unit = "pairs"
    asked: ClassVar[Mapping[str, Any]] = {"truncate": True, "raw_scores": False}
    probe = RelevanceProbe(metric)

    def columns(self, columns: Columns) -> dict[str, str]:
        return {"text": columns.text, "pair": columns.text_pair or "document", "target": columns.label}

    def group(self, example: Example) -> str:
        """A query that was trained on says little of new ones."""
        return example.text

    def check_data(self, train: Sequence[Example], labels: Sequence[str], name: str) -> None:
        found = {_is_relevant(example) for example in train}
        if len(found) < 2:
            where = "from 0.5 on" if found == {True} else "below 0.5"
            raise InvalidRequest(
                f"every label of {name} is {where}; relevant and irrelevant documents are needed to learn from",
                param="data",
            )

    def target(self, example: Example, index: Mapping[str, int]) -> float:
        return float(example.target)  # type: ignore[arg-type]

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        targets = torch.tensor([example.target for example in batch], device=outputs[0].device)
        return F.binary_cross_entropy_with_logits(torch.stack(list(outputs)).float()[:, 0], targets.float())

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        """An output from 0 on is a score from 0.5 on."""
        return self._accuracy([int(float(output[0]) >= 0) for output in outputs], examples)

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        pairs = zip(answers, examples, strict=True)
        return share(self.metric, [(a["score"] >= 0.5) == _is_relevant(e) for a, e in pairs])

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline:
        commonest = int(sum(_relevant(train)) * 2 >= len(train))
        return Baseline("always the commonest answer", self._accuracy([commonest] * len(test), test))

    def _accuracy(self, answers: Sequence[int], examples: Sequence[EncodedExample]) -> Score:
        right = sum(answer == target for answer, target in zip(answers, _relevant(examples), strict=True))
        return Score(self.metric, right / len(examples), len(examples))

"""How a kind of task is trained: what a row of its data holds, the loss, the metric, and what the card says.

Everything that training needs to know of a kind stands in the kind's own module, in a subclass of `KindTraining`; a
new one is a line in `core.kinds.registry`. What is run (passes, steps, files) stands in `training`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from manyhats.core.kinds.base import Kind
from manyhats.core.kinds.baselines import Baseline, Probe
from manyhats.core.kinds.examples import Columns, DataRow, EncodedExample, Example
from manyhats.core.kinds.metrics import Metric, Score
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class TargetScale:
    """What a head's outputs are multiplied with, and what is added, to be in the data's units."""

    mean: float = 0.0
    std: float = 1.0


class KindTraining(ABC):
    """One way to train a kind. Stateless: one instance serves all trainings.

    `name`: what the command line calls it; the kind's own, but for labels of another sort (`multilabel`). `served_as`:
    the kind that what was trained is served as. `row`: what a row of the data holds. `metric`: what is judged by.

    `takes_template`: whether the texts may be put into a prompt. `causal`: whether the answer stands in what the pass
    reads, so that no method may look ahead. `serves_max_tokens`: whether the limit of an input's tokens is the
    server's too. `evaluated_at_once`: how many inputs' outputs are held together when the metric is taken; None for
    all. `unit`: what is judged, on the card; `notes`: further sentences there. `probe`: the linear model on frozen
    states that is compared with.
    """

    name: ClassVar[str]
    served_as: ClassVar[Kind[Any]]
    row: ClassVar[type[DataRow]]
    metric: ClassVar[Metric]
    takes_template: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    serves_max_tokens: ClassVar[bool] = True
    evaluated_at_once: ClassVar[int | None] = None
    unit: ClassVar[str] = "inputs"
    notes: ClassVar[Sequence[str]] = ()
    probe: ClassVar[Probe | None] = None

    # ---- the data

    @property
    def labelled(self) -> bool:
        """Whether every row has one of a set of labels, several, or one for every word."""
        return self.served_as.labelled

    def columns(self, columns: Columns) -> dict[str, str]:
        """The row's name of each field that it must have, and the column's name in the files."""
        pair = {} if columns.text_pair is None else {"pair": columns.text_pair}
        return {"text": columns.text, **pair, "target": columns.label}

    def optional_columns(self, columns: Columns) -> dict[str, str]:
        """Those that a row may have."""
        return {}

    def labels(self, example: Example) -> tuple[str, ...]:
        """The labels of an example; none of a kind without labels."""
        return ()

    def label_count(self, example: Example, label: str) -> int:
        """How often an example counts for a label."""
        return self.labels(example).count(label)

    def group(self, example: Example) -> Any:
        """What a split keeps on one side, so that nothing that was trained on is judged by: by default duplicates."""
        return example.input

    def stratum(self, example: Example) -> Any:
        """What a split keeps the shares of."""
        return ""

    def check_data(self, train: Sequence[Example], labels: Sequence[str], name: str) -> None:  # noqa: B027
        """Raises InvalidRequest where nothing can be learned from the rows of the file `name`."""

    def check_backbone(self, backbone: Backbone) -> None:  # noqa: B027
        """Raises InvalidRequest or ConfigurationError where the backbone cannot be trained for the kind."""

    @abstractmethod
    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        """Tokens and targets; an input is truncated after `max_tokens`. `template`: of a prompt, with `{text}` in it.

        Raises InvalidRequest where nothing is left of an input that could be learned.
        """

    # ---- the objective

    def inputs(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """What goes through the pass for these examples: one list for each text that an example is made of."""
        return [list(examples)]

    def target_count(self, batch: Sequence[EncodedExample]) -> int:
        """How many targets the loss of a batch is the mean over: inputs, words, or tokens of answers."""
        return len(batch)

    @abstractmethod
    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        """The mean over the batch's targets; () float32. `outputs`: what the pass gave for all `inputs` of the batch,
        one list behind the other. `weights`: (labels,), how much each counts. `scale`: of the head, if it has one."""

    def target_scale(self, train: Sequence[EncodedExample]) -> TargetScale | None:
        """Of a head that is trained on numbers of mean 0 and standard deviation 1."""
        return None

    # ---- how good it is

    @abstractmethod
    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        """Compares the outputs for all `inputs` of the examples, one list behind the other, with the targets."""

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline | None:
        """What is reached without reading the input."""
        return None

    # ---- what is served

    def settings(self, backbone: Backbone) -> Mapping[str, Any]:
        """Settings that the server needs for the trained task."""
        return {}


class LabelledTraining(KindTraining):
    """Of a kind whose rows have one of a set of labels, several, or one for every word. `min_labels`: how many there
    must be for anything to be learned."""

    min_labels: ClassVar[int] = 2

    def labels(self, example: Example) -> tuple[str, ...]:
        return example.target if isinstance(example.target, tuple) else (str(example.target),)

    def check_data(self, train: Sequence[Example], labels: Sequence[str], name: str) -> None:
        if not labels:
            raise InvalidRequest(f"no row of {name} has a label", param="data")
        same = len({self.labels(example) for example in train}) < 2
        if same or len(labels) < self.min_labels:
            raise InvalidRequest(
                f"every row of {name} has the label '{labels[0]}'; two classes are needed to learn from", param="data"
            )

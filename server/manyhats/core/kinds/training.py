"""How a kind of task is trained: the rows of its data, the loss, the metric, and the card.

A subclass of `KindTraining` in the kind's module has everything specific to the kind; a new one is a line in
`core.kinds.registry`. Passes, steps and files are in `training`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from manyhats.backbone import Text
from manyhats.core.kinds.base import Answer, Kind, Parameters, Settings
from manyhats.core.kinds.baselines import Baseline, Probe
from manyhats.core.kinds.examples import Columns, DataRow, EncodedExample, Example, encode_texts
from manyhats.core.kinds.metrics import Metric, Score
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class TargetScale:
    """The factor and offset that convert a head's outputs to the data's units."""

    mean: float = 0.0
    std: float = 1.0


class KindTraining(ABC):
    """One way to train a kind. Stateless: one instance for all trainings.

    `name`: on the command line; the kind's, except for another type of labels (`multilabel`). `served_as`: the kind of
    the trained task. `row`: the model of a row of data. `metric`: of the scores.

    `takes_template`: whether the texts may be put into a prompt. `causal`: whether the pass reads the answer, so that
    methods must be causal. `serves_max_tokens`: whether the limit of an input's tokens is the server's too.
    `batch_from_rows`: whether few rows need small batches; not where a batch's rows are each other's wrong answers.
    `evaluated_at_once`: how many inputs' outputs are kept together for the metric; None: all. `unit`: of what is
    judged, on the card; `notes`: further sentences there. `probe`: the linear model on frozen states, a baseline.
    """

    name: ClassVar[str]
    served_as: ClassVar[Kind[Any]]
    row: ClassVar[type[DataRow]]
    metric: ClassVar[Metric]
    takes_template: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    serves_max_tokens: ClassVar[bool] = True
    batch_from_rows: ClassVar[bool] = True
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
        """The name of each required field of a row, and of its column in the files."""
        pair = {} if columns.text_pair is None else {"pair": columns.text_pair}
        return {"text": columns.text, **pair, "target": columns.label}

    def optional_columns(self, columns: Columns) -> dict[str, str]:
        """The optional fields, in the same way."""
        return {}

    def labels(self, example: Example) -> tuple[str, ...]:
        """The labels of an example; none of a kind without labels."""
        return ()

    def label_count(self, example: Example, label: str) -> int:
        """How often an example has a label."""
        return self.labels(example).count(label)

    def group(self, example: Example) -> Any:
        """What a split keeps on one side, so that nothing that was trained on is judged by: by default duplicates."""
        return example.input

    def stratum(self, example: Example) -> Any:
        """The value whose shares a split keeps."""
        return ""

    def check_data(self, train: Sequence[Example], labels: Sequence[str], name: str) -> None:  # noqa: B027
        """Raises InvalidRequest where the rows of the file `name` cannot be learned from."""

    def check_backbone(self, backbone: Backbone) -> None:  # noqa: B027
        """Raises InvalidRequest or ConfigurationError where the backbone cannot be trained for the kind."""

    def target(self, example: Example, index: Mapping[str, int]) -> int | float | list[int]:
        """The target of a text as a whole. `index`: of each label. For kinds that do not override `encode`."""
        raise NotImplementedError(f"{type(self).__name__} has neither a target for a text nor an encoding of its own")

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        """Tokens and targets; an input is truncated after `max_tokens`. `template`: of a prompt, with `{text}` in it.

        Raises InvalidRequest where no target is left of an input.
        """
        index = {label: i for i, label in enumerate(labels)}
        return encode_texts(examples, [self.target(e, index) for e in examples], backbone, max_tokens)

    # ---- the objective

    def inputs(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """The inputs of the pass for these examples: one list for each text of an example."""
        return [list(examples)]

    def target_count(self, batch: Sequence[EncodedExample]) -> int:
        """The number of targets that a batch's loss is the mean of: inputs, words, or tokens of answers."""
        return len(batch)

    @abstractmethod
    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        """The mean over the batch's targets; () float32. `outputs`: of the pass, for all `inputs` of the batch,
        concatenated. `weights`: (labels,), of each label. `scale`: of the head, if it has one."""

    def target_scale(self, train: Sequence[EncodedExample]) -> TargetScale | None:
        """The scale of a head that is trained on numbers of mean 0 and standard deviation 1; None for other heads."""
        return None

    # ---- evaluation

    @abstractmethod
    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        """Compares the outputs for all `inputs` of the examples, concatenated, with the targets."""

    def constant_baseline(self, train: Sequence[EncodedExample], test: Sequence[EncodedExample]) -> Baseline | None:
        """The score of a constant answer."""
        return None

    # ---- a served task, judged by its answers

    # Parameters that its questions are asked with.
    asked: ClassVar[Mapping[str, Any]] = {"truncate": True}

    @property
    def answer_metric(self) -> Metric:
        """The metric of `judged`."""
        return self.metric

    def judges(self, parameters: Parameters) -> bool:
        """Whether its rows have what a task answers that is asked with these parameters."""
        return True

    def check_served(self, settings: Settings) -> None:  # noqa: B027
        """Raises InvalidRequest where the answers of a task with these settings cannot be judged."""

    def questions(self, examples: Sequence[Example]) -> list[Text]:
        """What a task is asked about the examples."""
        return [Text(example.text, example.pair) for example in examples]

    @abstractmethod
    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        """Compares the answers to all `questions` about the examples with their targets. There is an example."""

    # ---- the trained task

    def settings(self, backbone: Backbone) -> Mapping[str, Any]:
        """Settings that the server needs for the trained task."""
        return {}


class LabelledTraining(KindTraining):
    """For rows with one of a set of labels, several, or one for every word. `min_labels`: how many different labels the
    data must have."""

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

"""What a kind of task is: what an adapter's output means, its request parameters, answers, training and names.

A kind is one module. A new one is a module with a subclass of `Kind`, and
a line in `core.kinds.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from manyhats.core.sequence import PoolingParams
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.heads import Head, Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded, Text, Tokenizer
    from manyhats.methods.bound_adapter import BoundAdapter

Output = NDArray[np.float32]
Answer = dict[str, Any]
# What a field of an answer is; `json` is anything else.
FieldType = Literal["text", "integer", "number", "numbers", "json"]


class Parameters(BaseModel):
    """Parameters of all kinds. `truncate`: whether an input that is too long is truncated, which the answer says, or
    rejected."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    truncate: bool | None = None

    @property
    def compiles(self) -> bool:
        """Whether they must first be compiled, which takes time."""
        return False

    @property
    def sequences(self) -> int:
        """How many sequences the engine runs for each input."""
        return 1


class Settings(Protocol):
    """The settings of a task that kinds read; see `registry.records.TaskSettings`."""

    @property
    def max_tokens(self) -> int | None: ...
    @property
    def overflow(self) -> str | None: ...
    @property
    def pooling(self) -> str | list[Any] | None: ...
    @property
    def normalize(self) -> bool | None: ...
    @property
    def prompts(self) -> Mapping[str, str] | None: ...
    @property
    def default_prompt_name(self) -> str | None: ...
    @property
    def include_prompt(self) -> bool | None: ...
    @property
    def lower_case(self) -> bool | None: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """The settings with some of them replaced."""
        ...


P = TypeVar("P", bound=Parameters)
S = TypeVar("S", bound=Settings)


# What a head over a whole text may read.
OVER_TEXT: tuple[Reads, ...] = ("first", "last", "pooler")


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A kind's own output layer. `reads`: which of the last hidden states it may read. `outputs`: their number; None:
    one for each label. `outputs_named`: what they are, for messages."""

    reads: tuple[Reads, ...]
    outputs: int | None = None
    outputs_named: str = ""


@dataclass(frozen=True, slots=True)
class LibraryNames:
    """Other libraries' names for a kind. Where several kinds have the same name, a file is read as the first of them.

    `peft`: PEFT's `task_type`. `model_classes`: endings of transformers' class names. `auto_class`: the class of
    transformers that loads any such model. `head_layer`: transformers' name for the head's layer, where it is not
    the family's classifier. `problem_types`: `problem_type`s of transformers' config. `adapterhub`: the
    `head_type`s of AdapterHub's heads that are read as this kind; the first is written. `pipeline`:
    Hugging Face's name for the task, on a model's card.
    """

    peft: str | None = None
    model_classes: tuple[str, ...] = ()
    auto_class: str = "AutoModel"
    head_layer: str | None = None
    problem_types: tuple[str, ...] = ()
    adapterhub: tuple[str, ...] = ()
    pipeline: str = ""


class Preparing(NamedTuple):
    """A request's task, as known when its texts are tokenised. `max_tokens`: of one input."""

    settings: Settings
    adapter: BoundAdapter
    backbone: Backbone
    max_tokens: int


class Rendered(NamedTuple):
    """What is needed for an answer besides the engine's output: the input, and the task's labels."""

    text: Text
    encoded: Encoded
    labels: Sequence[str] | None
    tokenizer: Tokenizer


class Kind(ABC, Generic[P]):
    """One kind of task. Stateless: one instance for all tasks.

    `head`: None for a kind that uses the backbone's language-model head (`lm_head`), or its states.
    `pair`: what the two texts of an input are, for a kind that needs both.
    `generates`: its answers are sequences of tokens that follow the input; `serving.generation` makes and answers them.
    `fields`: those that every answer has. `parameters`: of a request.
    `settings`: those of a task's settings that only this kind has.
    `bare_parameters`: parameters that select this kind on the bare backbone without naming it.
    Its training is a `core.kinds.training.KindTraining` in the same module.
    """

    name: ClassVar[str]
    head: ClassVar[HeadSpec | None] = None
    pair: ClassVar[tuple[str, str] | None] = None
    lm_head: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    fields: ClassVar[tuple[tuple[str, FieldType], ...]]
    parameters: type[P]
    settings: ClassVar[tuple[str, ...]] = ()
    bare_parameters: ClassVar[frozenset[str]] = frozenset()
    libraries: ClassVar[LibraryNames] = LibraryNames()

    @property
    def over_text(self) -> bool:
        """Whether it has a head that reads one state for each text, and not every token's."""
        return self.head is not None and "tokens" not in self.head.reads

    @property
    def labelled(self) -> bool:
        """Whether its head's outputs are labels."""
        return self.head is not None and self.head.outputs is None

    @property
    def ends_in_states(self) -> bool:
        """Whether its answer is computed from the last hidden states, without a head."""
        return self.head is None and not self.lm_head

    # ---- requirements

    def possible_on(self, backbone: Backbone) -> bool:
        """Whether an adapter without a head may be of this kind on the backbone."""
        return self.head is None

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch where the backbone does not support the kind."""

    def check_head(self, head: Head) -> None:
        """Raises AdapterMismatch where a head does not have the outputs that the kind needs."""
        expected = None if self.head is None else self.head.outputs
        if self.head is not None and expected not in (None, head.num_labels):
            outputs = f"{expected} output{'' if expected == 1 else 's'}{self.head.outputs_named}"
            raise AdapterMismatch(f"a head of kind '{self.name}' has {outputs}, not {head.num_labels}", param="head")

    def activation_warning(self, activation: str, file: str) -> str | None:
        """A warning for the uploader about an activation after the head in a file, which is not applied. None where
        the kind's answer includes it."""
        if self.labelled:
            return f"the activation {activation} in {file} is not applied; scores are a softmax or sigmoid"
        return (
            f"{file} says that the activation {activation} follows the head, which is not applied; a value is the "
            "head's own output"
        )

    def check_settings(self, partial: Mapping[str, Any], prompts: Collection[str]) -> None:
        """Raises InvalidRequest for settings that do not fit a task of this kind.

        `partial`: the given settings; `prompts`: the names of the task's existing prompts.
        """

    # ---- a request, before tokenisation

    def merge_parameters(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The task's defaults, overridden by the request's parameters; defaults of other kinds are dropped."""
        return {name: value for name, value in defaults.items() if name in self.parameters.model_fields} | dict(given)

    def complete(self, parameters: P, settings: S, backbone: Backbone, num_labels: int | None) -> tuple[P, S]:
        """Parameters and settings with defaults filled in. `num_labels`: of the head, if there is one.

        Raises InvalidRequest for what the head or the backbone does not support.
        """
        return parameters, settings

    def bare_settings(self, settings: S, backbone: Backbone) -> S:
        """Empty settings, with what the backbone's folder says of this kind."""
        return settings

    def prefix_length(self, parameters: P, settings: Settings) -> int:
        """The maximum number of characters that are put before each text."""
        return 0

    # ---- tokenisation

    def check_texts(self, texts: Sequence[Text], parameters: P, preparing: Preparing) -> None:
        """Raises InvalidRequest for texts without the pair that the kind needs, or that cannot be answered so, and for
        parameters that do not fit the adapter."""
        if self.pair is not None and any(text.pair is None for text in texts):
            text, pair = self.pair
            raise InvalidRequest(
                f"a task of kind '{self.name}' needs the {text} in 'text' and the {pair} in 'text_pair'", param="inputs"
            )

    def text_transform(self, parameters: P, preparing: Preparing) -> Callable[[Text], Text] | None:
        """A function applied to each text after the task's template. Raises InvalidRequest."""
        return None

    def pooling_params(
        self, encoded: Sequence[Encoded], parameters: P, preparing: Preparing
    ) -> Sequence[PoolingParams]:
        """What the pass returns for each input. Raises InvalidRequest for tokens that the kind does not support."""
        return [PoolingParams()] * len(encoded)

    # ---- answers

    @abstractmethod
    def render(self, output: Output, parameters: P, rendered: Rendered) -> Answer:
        """One answer, as api.md has it. `output`: of the pass, for the input."""

    def agrees(self, answer: Answer, other: Answer, tolerance: float) -> bool:
        """Whether two versions' answers to one input say the same: here, the same texts and whole numbers.

        `tolerance`: how far numbers, or the cosine of vectors from 1, may differ, for kinds that answer with these.
        """
        exact = [name for name, kind in self.fields if kind in ("text", "integer")]
        return all(answer.get(name) == other.get(name) for name in exact)

    def rendering_cost(self, output: Output, parameters: P) -> int:
        """Roughly how many values are processed to render an output, and to write it as JSON."""
        return int(output.size)

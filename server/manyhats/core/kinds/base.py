"""What a kind of task is: what an adapter's output means, how it is asked for, answered, trained and named.

Everything that is to be known of a kind stands in its own module. A new one is a module with a subclass of `Kind`, and
a line in `core.kinds.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from manyhats.core.sequence import PoolingParams
from manyhats.errors import AdapterMismatch
from manyhats.methods.heads import Head, Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded, Text, Tokenizer
    from manyhats.methods.bound_adapter import BoundAdapter

Output = NDArray[np.float32]
Answer = dict[str, Any]


class Parameters(BaseModel):
    """Common to all kinds. `truncate`: an input that is too long is truncated, and not refused; the answer says so."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    truncate: bool | None = None

    @property
    def compiles(self) -> bool:
        """Whether something is made of them first that takes its time."""
        return False

    @property
    def sequences(self) -> int:
        """How many sequences the engine runs for each input."""
        return 1


class Settings(Protocol):
    """Those of a task's settings that kinds look at; see `registry.records.TaskSettings`."""

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


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A kind's own output layer. `reads`: what of the last hidden states it may read. `outputs`: how many it has; None
    for one for each label. `outputs_named`: what they are, for a message."""

    reads: tuple[Reads, ...]
    outputs: int | None = None
    outputs_named: str = ""


@dataclass(frozen=True, slots=True)
class LibraryNames:
    """How other libraries name a kind. Where several kinds have the same name, a file is read as the first of them.

    `peft`: PEFT's `task_type`. `model_classes`: how the names of transformers' classes end. `auto_class`: the class of
    transformers that loads any such model. `head_layer`: what transformers calls the head's layer, where that is not
    the family's own classifier. `problem_types`: `problem_type`s of transformers' config. `adapterhub`: the
    `head_type`s of AdapterHub's heads that are read as this kind; the first is the one that is written. `pipeline`:
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
    """What is known of a request's task when its texts become tokens. `max_tokens`: of one input."""

    settings: Settings
    adapter: BoundAdapter
    backbone: Backbone
    max_tokens: int


class Rendered(NamedTuple):
    """What an answer is made of beside the engine's output: the input, and what the task says of its labels."""

    text: Text
    encoded: Encoded
    labels: Sequence[str] | None
    tokenizer: Tokenizer


class Kind(ABC, Generic[P]):
    """One kind of task. Stateless: one instance serves all tasks.

    `head`: None for a kind that ends in the backbone's own language-model head (`lm_head`), or in its states.
    `generates`: its answers are sequences of tokens that follow the input; `serving.generation` makes and answers them.
    `parameters`: what a request may ask. `settings`: those of a task's settings that are for this kind alone.
    `bare_parameters`: parameters that ask the bare backbone for this kind without naming it.
    How it is trained stands in a `core.kinds.training.KindTraining` of the same module.
    """

    name: ClassVar[str]
    head: ClassVar[HeadSpec | None] = None
    lm_head: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    parameters: type[P]
    settings: ClassVar[tuple[str, ...]] = ()
    bare_parameters: ClassVar[frozenset[str]] = frozenset()
    libraries: ClassVar[LibraryNames] = LibraryNames()

    @property
    def over_text(self) -> bool:
        """Whether it has a head that reads one state for a whole text, and not every token's."""
        return self.head is not None and "tokens" not in self.head.reads

    @property
    def labelled(self) -> bool:
        """Whether it has a head whose outputs stand for labels."""
        return self.head is not None and self.head.outputs is None

    @property
    def ends_in_states(self) -> bool:
        """Whether its answer is made of the last hidden states, without any head."""
        return self.head is None and not self.lm_head

    # ---- what it needs

    def possible_on(self, backbone: Backbone) -> bool:
        """Whether an adapter without a head may be of this kind on the backbone."""
        return self.head is None

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch where the backbone cannot answer so."""

    def check_head(self, head: Head) -> None:
        """Raises AdapterMismatch where a head has not the outputs that the kind needs."""
        expected = None if self.head is None else self.head.outputs
        if self.head is not None and expected not in (None, head.num_labels):
            outputs = f"{expected} output{'' if expected == 1 else 's'}{self.head.outputs_named}"
            raise AdapterMismatch(f"a head of kind '{self.name}' has {outputs}, not {head.num_labels}", param="head")

    def activation_warning(self, activation: str, file: str) -> str | None:
        """What an uploader is told of the activation that a file says follows the head, which is not applied. None
        where the kind's answer has it anyway."""
        if self.labelled:
            return f"the activation {activation} in {file} is not applied; scores are a softmax or sigmoid"
        return (
            f"{file} says that the activation {activation} follows the head, which is not applied; a value is the "
            "head's own output"
        )

    def check_settings(self, partial: Mapping[str, Any], prompts: Collection[str]) -> None:
        """Raises InvalidRequest for what is set for a task of this kind and does not fit.

        `partial`: what is set; `prompts`: the names of the prompts that there are besides those that it brings.
        """

    # ---- a request, before its texts become tokens

    def merge_parameters(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The task's defaults with what the request gives over them; defaults of other kinds are left out."""
        return {name: value for name, value in defaults.items() if name in self.parameters.model_fields} | dict(given)

    def complete(self, parameters: P, settings: S, backbone: Backbone, num_labels: int | None) -> tuple[P, S]:
        """Parameters and settings with all that they leave open filled in. `num_labels`: of the head, if there is one.

        Raises InvalidRequest for what such a head, or the backbone, cannot do.
        """
        return parameters, settings

    def bare_settings(self, settings: S, backbone: Backbone) -> S:
        """What the backbone's folder says of the bare backbone as this kind, put into empty settings."""
        return settings

    def prefix_length(self, parameters: P, settings: Settings) -> int:
        """At most how many characters are put before each text."""
        return 0

    # ---- its texts become tokens

    def check_texts(self, texts: Sequence[Text], parameters: P, preparing: Preparing) -> None:
        """Raises InvalidRequest for texts that cannot be answered so, or parameters that do not fit the adapter."""

    def text_transform(self, parameters: P, preparing: Preparing) -> Callable[[Text], Text] | None:
        """What is done to a text once it stands in the task's template. Raises InvalidRequest."""
        return None

    def pooling_params(
        self, encoded: Sequence[Encoded], parameters: P, preparing: Preparing
    ) -> Sequence[PoolingParams]:
        """What one pass gives for each input. Raises InvalidRequest for tokens that cannot be answered so."""
        return [PoolingParams()] * len(encoded)

    # ---- its answers

    @abstractmethod
    def render(self, output: Output, parameters: P, rendered: Rendered) -> Answer:
        """One answer, as api.md has it. `output`: what one pass gave for the input."""

    def rendering_cost(self, output: Output, parameters: P) -> int:
        """Roughly how many values are gone through to render an output, and to write it as JSON."""
        return int(output.size)

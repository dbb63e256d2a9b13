"""What a kind of task is: what an adapter's output means, how it is asked for, answered, trained and named.

Everything that is to be known of a kind stands in its own module. A new one is a module with a subclass of `Kind`, and
a line in `core.kinds.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from manyhats.core.kinds.training import KindTraining
from manyhats.methods.heads import Head, Reads

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, Encoded, Text, Tokenizer

Output = NDArray[np.float32]
Answer = dict[str, Any]


class Parameters(BaseModel):
    """What a request may ask of any kind. `truncate`: cut an input that is too long, and say so, where it is refused
    else."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    truncate: bool | None = None


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A kind's own output layer. `reads`: what of the last hidden states it may read. `outputs`: how many it has; None
    for one for each label."""

    reads: tuple[Reads, ...]
    outputs: int | None = None


@dataclass(frozen=True, slots=True)
class LibraryNames:
    """How other libraries name a kind.

    `peft`: PEFT's `task_type`. `model_classes`: how the names of transformers' classes end. `auto_class`: the class of
    transformers that loads any such model. `adapterhub`: the `head_type`s of AdapterHub's heads that are read as this
    kind; the first is the one that is written. `pipeline`: Hugging Face's name for the task, on a model's card.
    """

    peft: str | None = None
    model_classes: tuple[str, ...] = ()
    auto_class: str | None = None
    adapterhub: tuple[str, ...] = ()
    pipeline: str = ""


class Rendered(NamedTuple):
    """What an answer is made of beside the engine's output: the input, and what the task says of its labels."""

    text: Text
    encoded: Encoded
    labels: list[str] | None
    tokenizer: Tokenizer


class Kind(ABC, Generic[P]):
    """One kind of task. Stateless: one instance serves all tasks.

    `head`: None for a kind that ends in the backbone's own language-model head, or in its states. `parameters`: what a
    request may ask. `trainings`: the ways to train it, one for each sort of labels; the first has the kind's own name.
    """

    name: ClassVar[str]
    head: ClassVar[HeadSpec | None] = None
    parameters: type[P]
    libraries: ClassVar[LibraryNames] = LibraryNames()
    trainings: ClassVar[Sequence[KindTraining]] = ()

    # ---- what it needs

    def possible_on(self, backbone: Backbone) -> bool:
        """Whether an adapter without a head may be of this kind on the backbone."""
        return self.head is None

    def check_head(self, head: Head) -> None:
        """Raises AdapterMismatch where a head has not the outputs that the kind needs."""

    # ---- serving

    @abstractmethod
    def render(self, output: Output, parameters: P, rendered: Rendered) -> Answer:
        """One answer, as api.md has it. `output`: what one pass gave for the input."""

    def rendering_cost(self, parameters: P, output: Output) -> int:
        """Roughly how many values are gone through to render an output, and to write it as JSON."""
        return int(output.size)

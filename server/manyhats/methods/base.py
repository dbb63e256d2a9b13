"""What a method is: how its weights are checked, bound, and applied to the rows of a packed batch.

An adapter's weights are read into components (host memory, as in the file), bound by `Method.bind` (ready to act),
moved to the device together (`methods.placement`), and run at the backbone's sites by the `Plan` of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.component import C, Component, StateDict
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture
from manyhats.methods.libraries.native import NativeFormat
from manyhats.methods.libraries.peft import PeftType, PeftWriter
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.operations import Operation, OwnNorm, OwnRows
from manyhats.methods.recipe import Recipe

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch

SequenceSlices = Sequence[slice]  # by sequence: its rows, counted from the segment's first
Pair = tuple[Tensor, Tensor]  # weight and bias


class EmbeddingStep(Protocol):
    """Computes a segment's rows of an embedding's output. `ids`: (rows,), `y`: (rows, dim); `slices` within these
    rows."""

    def __call__(self, ids: Tensor, y: Tensor, slices: SequenceSlices) -> Tensor: ...


class StatesStep(Protocol):
    """Changes a segment's rows of the residual stream as a whole.

    `states`: (rows, hidden), `slices` within them; `batch`: the current batch, `sequences`: their indices in it.
    """

    def __call__(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor: ...


class KeyValueStep(Protocol):
    """The rows that a segment's sequences attend to before their own.

    `hidden`: (tokens, width), what the attention layer reads. Returns keys and values: (rows, kv_heads, head_dim) for
    all sequences of the segment together, or as many for each sequence, concatenated (`BoundComponent.prefix_each`).
    """

    def __call__(self, hidden: Tensor, slices: SequenceSlices) -> tuple[Tensor, Tensor]: ...


@dataclass(slots=True)
class BoundComponent:
    """One component on the device. Each mapping is from a site to what acts there.

    `linear`: operations at a linear layer, in their order: `ScaleInput`, `OwnWeight` or `OwnMask`, and those that
    change its output (see `methods.operations`).
    """

    linear: Mapping[str, Sequence[Operation]] = field(default_factory=dict)
    embedding: Mapping[str, OwnRows | EmbeddingStep] = field(default_factory=dict)
    norm: Mapping[str, OwnNorm] = field(default_factory=dict)
    residual: Mapping[str, Operation] = field(default_factory=dict)  # of a kind that has a `run`
    # `embedded`, `last`; an operation is of a kind that has a `run`
    states: Mapping[str, Operation | StatesStep] = field(default_factory=dict)
    key_value: Mapping[int, KeyValueStep] = field(default_factory=dict)  # by layer
    prefix_rows: int = 0  # rows that key_value puts before a sequence
    prefix_each: bool = False  # every sequence has its own
    prefix_left_out: frozenset[int] = frozenset()  # layers whose attention does not read these rows
    virtual_tokens: int = 0  # virtual tokens before every sequence's own
    position_offset: int = 0  # added to real tokens' positions
    nbytes: int = 0


class Trainable(nn.Module, ABC):
    """A component in training: parameters, the forward pass that serves, and the component to save."""

    stages: ClassVar[int] = 1

    @property
    def rates(self) -> Mapping[str, float]:
        """Factors of the learning rate by the first part of a parameter's name; 1 for those not listed."""
        return {}

    @abstractmethod
    def bound(self) -> BoundComponent:
        """The component with its current parameters, with gradients; called once a step. Random only in training
        mode."""

    def advance(self) -> None:
        """Begins the next stage, in which other parameters may be trained."""
        raise NotImplementedError(f"{type(self).__name__} has a single stage")

    def restore(self, stage: int, state: Mapping[str, Any]) -> None:
        """Loads the `state_dict` of a stage, counted from 0."""
        for _ in range(stage):
            self.advance()
        self.load_state_dict(state)

    def penalty(self) -> Tensor | None:
        """A term added to the loss of every step."""
        return None

    @abstractmethod
    def component(self) -> Component[Any]:
        """The component to save; what only training needs is left out or folded in."""


class Conflict(NamedTuple):
    """Why an adapter is rejected. `param`: the field at fault."""

    reason: str
    param: str


class Method(ABC, Generic[C]):
    """One way of adapting a backbone. Stateless: one instance for all tasks.

    A new method is a module with a subclass, and a line in `methods.registry`. `peft_types`, `peft_writer`,
    `adapterhub` and `native` say how files store it, `recipes` how it is trained, by the names used in the literature.

    `incompatible_with`: other methods that cannot be in one adapter with it, and why. `lm_head_conflict`: why an
    adapter with it cannot end in the backbone's language-model head; None where it can. `tied_to_lm_head_ok`: whether
    an embedding that shares its weight with the output layer may be adapted by it alone, though PEFT's
    `ensure_weight_tying` requires both. `pooled_virtual_tokens`: whether it adds virtual tokens that pooling over all
    rows includes. `size_option`: the training option that says how large `rank` is; empty where there is none.
    """

    name: ClassVar[str]
    config: type[C]
    peft_types: ClassVar[Sequence[PeftType]] = ()
    peft_writer: ClassVar[PeftWriter[Any] | None] = None
    adapterhub: ClassVar[AdapterHubArchitecture | None] = None
    native: ClassVar[NativeFormat[Any] | None] = None
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    incompatible_with: ClassVar[Mapping[str, str]] = {}
    lm_head_conflict: ClassVar[Conflict | None] = None
    tied_to_lm_head_ok: ClassVar[bool] = True
    pooled_virtual_tokens: ClassVar[bool] = False
    size_option: ClassVar[str] = ""

    @abstractmethod
    def check(self, component: Component[C], backbone: Backbone) -> None:
        """Raises AdapterMismatch, naming the tensor and both shapes, where the component does not fit the backbone."""

    def check_together(self, components: Sequence[Component[C]]) -> None:
        """Raises AdapterMismatch where several components of this method cannot be in one adapter."""

    @abstractmethod
    def bind(self, component: Component[C], backbone: Backbone) -> BoundComponent:
        """The component ready to act, in the backbone's dtype. It has been checked.

        Computes where the component's tensors are: in host memory, or beside the backbone's weights where
        `reads_weights` says so. Whoever calls this moves the result to the backbone's device, all of it at once
        (`methods.placement`). So tensors may be in dicts, lists, tuples and frozen dataclasses, and nowhere else.
        """

    def reads_weights(self, component: Component[C], backbone: Backbone) -> bool:
        """Whether `bind` computes with the backbone's weights, and so wants the component's tensors on their device."""
        return False

    def claim_additional(self, unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[C] | None:
        """The component of this method that a PEFT file of any type holds in addition; None where it holds none."""
        return None

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """New weights to train. Raises InvalidRequest for an unknown option."""
        raise InvalidRequest(f"the method '{self.name}' cannot be trained yet", param="method")

    def rank(self, component: Component[C]) -> int | None:
        """The size that the method is named by: LoRA's rank, an adapter's width, a prefix's length."""
        return None

    def slot_size(self, component: Component[C], backbone: Backbone) -> int:
        """Bytes that `bind` will take on the device."""
        return component.nbytes

    def replaced_weights(self, component: Component[C]) -> set[str]:
        """The linear sites whose weight the component replaces; no two components of an adapter may share one."""
        return set()

    def non_causal(self, component: Component[C]) -> bool:
        """Whether its effect on a token depends on later tokens, so that keys and values cannot be cached."""
        return component.gated


def expect_shape(tensor: Tensor, shape: tuple[int, ...], name: str, backbone: Backbone) -> None:
    """Raises AdapterMismatch where a tensor of the adapter has another shape than the backbone needs."""
    if tuple(tensor.shape) != shape:
        raise AdapterMismatch(
            f"'{name}' has shape {list(tensor.shape)}, but the backbone {backbone.name} needs {list(shape)}",
            param=name,
        )


def expect_matrix(tensor: Tensor, name: str) -> int:
    """The number of a matrix' rows. Raises AdapterMismatch for any other tensor, and for an empty one."""
    if tensor.dim() != 2 or tensor.numel() == 0:
        raise AdapterMismatch(f"'{name}' has shape {list(tensor.shape)}, but must be a matrix", param=name)
    return tensor.shape[0]


def expect_leaves(leaves: StateDict, required: Sequence[str], site: str) -> None:
    """Raises AdapterMismatch where one of the `required` tensors of a site is missing."""
    absent = [name for name in required if name not in leaves]
    if absent:
        raise AdapterMismatch(f"the adapter has no '{absent[0]}' for {site}", param=site)


def in_dtype(leaves: StateDict, backbone: Backbone) -> dict[str, Tensor]:
    """A site's tensors in the backbone's dtype."""
    return {name: tensor.to(backbone.dtype) for name, tensor in leaves.items()}


def pair_of(leaves: StateDict, name: str) -> Pair | None:
    """`name.weight` and `name.bias`; None where they are missing."""
    return (leaves[f"{name}.weight"], leaves[f"{name}.bias"]) if f"{name}.weight" in leaves else None


def parameter_key(site: str, leaf: str) -> str:
    """A name for a parameter in training; torch allows no dots in it."""
    return f"{site}:{leaf}".replace(".", "/")


def init_parameter(backbone: Backbone, shape: Sequence[int], std: float, generator: torch.Generator) -> nn.Parameter:
    """A parameter of normal random numbers with mean 0, on the backbone's device."""
    return nn.Parameter((torch.randn(tuple(shape), generator=generator) * std).to(backbone.device))


def init_gate(backbone: Backbone, width: int, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """A gate that starts half open, as AdapterHub's do: weight (1, width), bias (1,)."""
    return {
        "gate.weight": init_parameter(backbone, (1, width), 0.02, generator),
        "gate.bias": init_parameter(backbone, (1,), 0.0, generator),
    }


def relative_slices(slices: Sequence[tuple[int, int]], start: int) -> list[slice]:
    """The rows (start, stop) of sequences as slices, counted from the row `start`."""
    return [slice(first - start, stop - start) for first, stop in slices]


def put_rows(y: Tensor, chunks: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """`y` with some runs of rows, in rising order, replaced; in place where no gradients are needed."""
    if not torch.is_grad_enabled():
        for rows, new in chunks:
            y[rows] = new
        return y
    parts: list[Tensor] = []  # autograd may need the old rows
    end = 0
    for rows, new in chunks:
        parts += [y[end : rows.start], new]
        end = rows.stop
    return torch.cat([*parts, y[end:]])


def reject_padded(backbone: Backbone, what: str) -> None:
    """Raises AdapterMismatch on a backbone that runs padded, for methods that need packed attention."""
    if not backbone.family.packed:
        raise AdapterMismatch(
            f"{what} is not supported on {backbone.config.model_type} models, whose attention is their own; "
            "LoRA, bottleneck adapters, IA3, masks and replaced parameters are",
            param="base_model_name_or_path",
        )

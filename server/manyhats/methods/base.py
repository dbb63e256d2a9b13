"""What a method is: how its weights are checked, made ready and act on the rows of a packed batch.

Life of an adapter's weights: a format reader makes `Part`s (host memory, as in the file); `Method.bind` makes them
`Bound` (on the device, ready to act); a `Plan` lets all bound adapters of a batch act at their sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch

if TYPE_CHECKING:
    import torch

    from manyhats.backbone import Backbone

Norm = Callable[[Tensor], Tensor]
Leaves = Mapping[str, Tensor]


class MethodConfig(BaseModel):
    """What a method needs to know besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Part:
    """The weights of one method, in host memory. `tensors`: by site, then by the method's own leaf names."""

    method: str
    config: MethodConfig
    tensors: Mapping[str, Leaves]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for leaves in self.tensors.values() for t in leaves.values())


@dataclass(slots=True)
class Bound:
    """One part on the device. Each mapping goes from a site to whatever the method needs there."""

    linear: Mapping[str, Any] = field(default_factory=dict)  # by linear site
    residual: Mapping[str, Any] = field(default_factory=dict)  # by residual site
    key_value: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by layer: (rows, heads, dim)
    prefix_rows: int = 0  # rows that key_value puts before every sequence
    position_shift: int = 0  # how far real tokens' positions move on
    nbytes: int = 0


class Act(NamedTuple):
    """A method's weights at one site, and the rows [start, stop) of the batch that they act on."""

    rows: slice
    weights: Any


class Trainable(nn.Module, ABC):
    """A part while it is being trained: parameters, the same forward as when it is served, and the way back."""

    @abstractmethod
    def bound(self) -> Bound:
        """The part as it acts now, with gradients; called once a step."""

    @abstractmethod
    def part(self) -> Part:
        """The part to be saved; what was needed for training alone is left out or folded in."""


class Method(ABC):
    """One way of adapting a backbone. Stateless: one instance serves all tasks."""

    name: ClassVar[str]
    own_weight: ClassVar[bool] = False  # brings its own weights for linear layers: see `weight`

    @abstractmethod
    def check(self, part: Part, backbone: Backbone) -> None:
        """Raises AdapterMismatch, naming the tensor and both shapes, where the part does not fit the backbone."""

    @abstractmethod
    def bind(self, part: Part, backbone: Backbone) -> Bound:
        """The part on the backbone's device in its dtype. The part has been checked."""

    @abstractmethod
    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """Fresh weights to train. Raises InvalidRequest for an option that the method does not have."""

    def rank(self, part: Part) -> int | None:
        """The size that the method is named by: LoRA's rank, an adapter's width, a prefix's length."""
        return None

    def slot_size(self, part: Part, backbone: Backbone) -> int:
        """Bytes that `bind` will take on the device."""
        return part.nbytes

    def weight(self, weight: Tensor, own: Any) -> Tensor:
        """The weight (out, in) that a segment uses in place of the backbone's (for `own_weight` methods)."""
        raise NotImplementedError

    def after_linear(self, x: Tensor, y: Tensor, acts: Sequence[Act]) -> None:
        """Changes rows of a linear layer's output in place. x: (rows, in), y: (rows, out)."""
        raise NotImplementedError

    def join(self, f: Tensor, x: Tensor, joined: Tensor, norm: Norm, weights: Any) -> Tensor:
        """A segment's rows of a residual site: f, x and joined = norm(f + x), all (rows, hidden)."""
        raise NotImplementedError


def expect_shape(tensor: Tensor, shape: tuple[int, ...], name: str, backbone: Backbone) -> None:
    """Raises AdapterMismatch where a tensor of the adapter has another shape than the backbone asks for."""
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


def expect_leaves(leaves: Leaves, required: Sequence[str], site: str) -> None:
    """Raises AdapterMismatch where tensors that belong together are not all there."""
    absent = [name for name in required if name not in leaves]
    if absent:
        raise AdapterMismatch(f"the adapter has no '{absent[0]}' for {site}", param=site)

"""Heads: a task's output layer, on the backbone's last hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.methods.base import expect_shape

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

Kind = Literal["classify", "tokens", "regress", "span", "embed", "generate", "fill"]
Reads = Literal["first", "last", "pooler", "tokens"]

# These end in the backbone's own language-model head, or in its states.
HEADLESS: frozenset[Kind] = frozenset({"embed", "generate", "fill"})
# What each kind's head reads; a kind that is not here has no head.
READS: dict[Kind, tuple[Reads, ...]] = {
    "classify": ("first", "last", "pooler"),
    "regress": ("first", "last", "pooler"),
    "tokens": ("tokens",),
    "span": ("tokens",),
}


def headless_kinds(backbone: Backbone) -> tuple[Kind, ...]:
    """What an adapter without a head may be for: the backbone's states, and what its language-model head makes."""
    found: list[Kind] = ["embed"]
    if backbone.has_language_model:
        found.append("generate")
    if backbone.fills_masks:
        found.append("fill")
    return tuple(found)


class Layer(NamedTuple):
    """A linear layer of a head, and the activation behind it. weight: (out, in), bias: (out,)."""

    weight: Tensor
    bias: Tensor | None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """`reads`: the last hidden state of the first or the last token, the backbone's pooler over the first one's, or
    every token's state."""

    kind: Kind
    reads: Reads
    layers: tuple[Layer, ...]

    def read(self, states: Tensor) -> Tensor:
        """What the first layer is given of its rows (rows, hidden): all of it, but in training."""
        return states

    @property
    def num_labels(self) -> int:
        """Width of the last layer."""
        return self.layers[-1].weight.shape[0]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What it may be asked for: one output over a whole text is a value, or a label's logit."""
        if self.kind in ("classify", "regress"):
            return ("classify", "regress") if self.num_labels == 1 else ("classify",)
        return (self.kind,)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for layer in self.layers for t in (layer.weight, layer.bias) if t is not None)

    def check(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch where the head does not fit the backbone."""
        if self.reads == "pooler" and not backbone.has_pooler:
            raise AdapterMismatch(
                f"the head reads the backbone's pooler, but the checkpoint of {backbone.name} has no pooler weights",
                param="head",
            )
        if not self.layers:
            raise AdapterMismatch("the head has no layers", param="head")
        width = backbone.output_width
        for i, (weight, bias, name) in enumerate(self.layers):
            rows = weight.shape[0] if weight.dim() else 0
            expect_shape(weight, (rows, width), f"head.{i}.weight", backbone)
            if not rows:
                raise AdapterMismatch(f"'head.{i}.weight' has no outputs", param="head")
            width = rows
            if bias is not None:
                expect_shape(bias, (width,), f"head.{i}.bias", backbone)
            if name is not None:
                activation(name)
        if self.kind == "span" and self.num_labels != 2:
            raise AdapterMismatch(
                f"a head of kind 'span' has 2 outputs, start and end, not {self.num_labels}", param="head"
            )

    def to(self, backbone: Backbone) -> Head:
        """The head on the backbone's device in its dtype."""

        def move(t: Tensor) -> Tensor:
            return t.to(backbone.device, backbone.dtype)

        layers = tuple(Layer(move(w), None if b is None else move(b), a) for w, b, a in self.layers)
        return Head(self.kind, self.reads, layers)

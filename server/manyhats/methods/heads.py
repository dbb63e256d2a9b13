"""Heads: a task's output layer, on the backbone's last hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.methods.base import expect_shape

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

KindName = str  # a kind of task, of those in `core.kinds.registry`
Reads = Literal["first", "last", "pooler", "tokens"]


class Layer(NamedTuple):
    """A linear layer of a head, and the activation behind it. weight: (out, in), bias: (out,)."""

    weight: Tensor
    bias: Tensor | None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """`reads`: the last hidden state of the first or the last token, the backbone's pooler over the first one's, or
    every token's state."""

    kind: KindName
    reads: Reads
    layers: tuple[Layer, ...]

    def read(self, states: Tensor) -> Tensor:
        """The first layer's input, of the head's rows (rows, hidden); with dropout in training."""
        return states

    @property
    def num_labels(self) -> int:
        """Width of the last layer."""
        return self.layers[-1].weight.shape[0]

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

    def to(self, dtype: torch.dtype) -> Head:
        """The head in a dtype."""
        layers = tuple(Layer(w.to(dtype), None if b is None else b.to(dtype), a) for w, b, a in self.layers)
        return Head(self.kind, self.reads, layers)

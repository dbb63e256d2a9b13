"""Trains a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.errors import InvalidRequest
from manyhats.methods.heads import Head, KindName, Layer, Reads
from manyhats.methods.recipe import Recipe

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class _DroppingHead(Head):
    """A head with dropout on its input."""

    dropout: float
    generator: torch.Generator

    def read(self, states: Tensor) -> Tensor:
        keep = torch.empty_like(states).bernoulli_(1 - self.dropout, generator=self.generator)
        return states * keep / (1 - self.dropout)


class NoHead(nn.Module):
    """For adapters without a head, of the language-model head or of states."""

    scale: TargetScale | None = None

    def head(self, dropout: float = 0.0, generator: torch.Generator | None = None) -> None:
        """None."""

    def saved(self) -> None:
        """None."""


class TrainableHead(nn.Module):
    """The parameters of a head, and its conversion to a `Head`.

    `scale`: for numbers, of the training data. The parameters then predict numbers of mean 0 and standard deviation 1,
    and `head` folds the scale into the last layer, so that the head's outputs are in the data's units.
    """

    def __init__(
        self,
        backbone: Backbone,
        kind: KindName,
        reads: Reads,
        widths: Sequence[int],
        activation: str | None,
        generator: torch.Generator,
    ) -> None:
        """`widths`: outputs of each layer, the number of labels last."""
        super().__init__()
        self.kind = kind
        self.reads: Reads = reads
        self.activation = activation
        self.scale: TargetScale | None = None
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        inputs = backbone.output_width
        for width in widths:
            weight = torch.empty(width, inputs)
            nn.init.normal_(weight, std=0.02, generator=generator)  # as BERT's heads are initialised
            self.weights.append(nn.Parameter(weight.to(backbone.device)))
            self.biases.append(nn.Parameter(torch.zeros(width, device=backbone.device)))
            inputs = width

    def head(self, dropout: float = 0.0, generator: torch.Generator | None = None) -> Head:
        """The head with gradients; `dropout`: the share of its input's values set to zero."""
        last = len(self.weights) - 1
        layers = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            w, b = weight, bias
            if i == last and self.scale is not None:
                w, b = weight * self.scale.std, bias * self.scale.std + self.scale.mean
            layers.append(Layer(w, b, None if i == last else self.activation))
        if dropout and generator is not None:
            return _DroppingHead(self.kind, self.reads, tuple(layers), dropout, generator)
        return Head(self.kind, self.reads, tuple(layers))

    def saved(self) -> Head:
        """The head to be saved, in host memory."""
        head = self.head()
        layers = tuple(
            Layer(w.detach().cpu().clone(), None if b is None else b.detach().cpu().clone(), a)
            for w, b, a in head.layers
        )
        return Head(head.kind, head.reads, layers)


def head_for(
    backbone: Backbone, recipe: Recipe, kind: KindTraining, num_labels: int, generator: torch.Generator
) -> TrainableHead | NoHead:
    """A new head in the layout of the recipe's file format. Raises InvalidRequest where the format has none."""
    served = kind.served_as
    if served.head is None:
        return NoHead()
    outputs = num_labels if served.head.outputs is None else served.head.outputs
    layout = backbone.task_heads.classification
    if recipe.peft and layout is None:
        raise InvalidRequest(
            f"PEFT's files do not hold the whole head of {backbone.config.model_type} models; use houlsby or mask",
            param="method",
        )
    if not served.over_text:
        return TrainableHead(backbone, served.name, "tokens", [outputs], None, generator)
    if not recipe.peft or layout is None:
        reads: Reads = "last" if backbone.family.causal else "first"
        return TrainableHead(backbone, served.name, reads, [outputs], None, generator)
    if layout.reads == "pooler" and not backbone.has_pooler:
        raise InvalidRequest(
            f"with {recipe.method} a head reads the pooler, but the checkpoint of {backbone.name} has no weights for "
            "it; use houlsby or mask",
            param="method",
        )
    widths = [backbone.hidden] * (len(layout.linears) - 1) + [outputs]
    return TrainableHead(backbone, served.name, layout.reads, widths, layout.activation, generator)

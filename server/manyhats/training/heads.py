"""A head while it is being trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.errors import InvalidRequest
from manyhats.methods.heads import Head, KindName, Layer, Reads
from manyhats.methods.recipe import Recipe
from manyhats.training.rows import TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_HEADLESS: tuple[TaskKind, ...] = ("embed", "generate")


def served(kind: TaskKind) -> KindName:
    """What a task of this kind is served as."""
    return "classify" if kind == "multilabel" else kind


@dataclass(frozen=True, slots=True)
class _DroppingHead(Head):
    """A head that leaves out some of its input's values, as training does."""

    dropout: float
    generator: torch.Generator

    def read(self, states: Tensor) -> Tensor:
        keep = torch.empty_like(states).bernoulli_(1 - self.dropout, generator=self.generator)
        return states * keep / (1 - self.dropout)


class NoHead(nn.Module):
    """For adapters that end in the backbone's own language-model head, or in its states."""

    def head(self, dropout: float = 0.0, generator: torch.Generator | None = None) -> None:
        """None."""

    def saved(self) -> None:
        """None."""


class TrainableHead(nn.Module):
    """The parameters of a head, and the way to the `Head` that serves.

    For `regress` the parameters work on numbers of mean 0 and spread 1; `head` folds the data's own into the last
    layer, so that the served head answers in the data's units.
    """

    def __init__(
        self,
        backbone: Backbone,
        kind: TaskKind,
        reads: Reads,
        widths: Sequence[int],
        activation: str | None,
        generator: torch.Generator,
    ) -> None:
        """`widths`: outputs of each layer, the number of labels last."""
        super().__init__()
        self.kind = kind
        self.served: KindName = served(kind)
        self.reads: Reads = reads
        self.activation = activation
        self.mean, self.spread = 0.0, 1.0
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        inputs = backbone.output_width
        for width in widths:
            weight = torch.empty(width, inputs)
            nn.init.normal_(weight, std=0.02, generator=generator)  # as BERT's own heads start
            self.weights.append(nn.Parameter(weight.to(backbone.device)))
            self.biases.append(nn.Parameter(torch.zeros(width, device=backbone.device)))
            inputs = width

    def scale_to(self, targets: Sequence[float]) -> None:
        """For `regress`: takes mean and spread from the training data."""
        self.mean = math.fsum(targets) / len(targets)
        self.spread = math.sqrt(math.fsum((t - self.mean) ** 2 for t in targets) / len(targets))

    def head(self, dropout: float = 0.0, generator: torch.Generator | None = None) -> Head:
        """The head with gradients; `dropout`: share of its input's values that is left out."""
        last = len(self.weights) - 1
        layers = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            w, b = weight, bias
            if i == last and self.kind == "regress":
                w, b = weight * self.spread, bias * self.spread + self.mean
            layers.append(Layer(w, b, None if i == last else self.activation))
        if dropout and generator is not None:
            return _DroppingHead(self.served, self.reads, tuple(layers), dropout, generator)
        return Head(self.served, self.reads, tuple(layers))

    def saved(self) -> Head:
        """The head to be saved, in host memory."""
        head = self.head()
        layers = tuple(
            Layer(w.detach().cpu().clone(), None if b is None else b.detach().cpu().clone(), a)
            for w, b, a in head.layers
        )
        return Head(head.kind, head.reads, layers)


def head_for(
    backbone: Backbone, recipe: Recipe, kind: TaskKind, num_labels: int, generator: torch.Generator
) -> TrainableHead | NoHead:
    """A fresh head in the layout that the recipe's file format has. Raises InvalidRequest where it cannot be had."""
    if kind in _HEADLESS:
        return NoHead()
    outputs = {"regress": 1, "span": 2}.get(kind, num_labels)
    layout = backbone.task_heads.classification
    if recipe.peft and layout is None:
        raise InvalidRequest(
            f"PEFT's files do not hold the whole head of {backbone.config.model_type} models; use houlsby or mask",
            param="method",
        )
    if kind in ("tokens", "span"):
        return TrainableHead(backbone, kind, "tokens", [outputs], None, generator)
    if not recipe.peft or layout is None:
        reads: Reads = "last" if backbone.family.causal else "first"
        return TrainableHead(backbone, kind, reads, [outputs], None, generator)
    if layout.reads == "pooler" and not backbone.has_pooler:
        raise InvalidRequest(
            f"with {recipe.method} a head reads the pooler, but the checkpoint of {backbone.name} has no weights for "
            "it; use houlsby or mask",
            param="method",
        )
    widths = [backbone.hidden] * (len(layout.linears) - 1) + [outputs]
    return TrainableHead(backbone, kind, layout.reads, widths, layout.activation, generator)

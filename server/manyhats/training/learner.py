"""The trained weights, and a batch's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.core.kinds.examples import EncodedExample
from manyhats.core.kinds.training import KindTraining
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.training.components import TrainableComponents
from manyhats.training.heads import NoHead, TrainableHead
from manyhats.training.objective import batch_loss

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Learner(nn.Module):
    """An adapter in training: the methods' weights and a head, on a frozen backbone. Several processes share it.

    `class_weights`: (labels,), the weight of each label. `dropping`: the generator of the head's dropout.
    """

    def __init__(
        self,
        backbone: Backbone,
        kind: KindTraining,
        trainable: TrainableComponents,
        head: TrainableHead | NoHead,
        class_weights: Tensor | None,
        dropout: float,
        dropping: torch.Generator,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.kind = kind
        self.trainable = trainable
        self.head = head
        self.class_weights = class_weights
        self.dropout = dropout
        self.dropping = dropping

    def bound(self, *, training: bool = False) -> BoundAdapter:
        """The adapter with its current weights, with gradients where they are enabled."""
        self.trainable.train(training)
        head = self.head.head(self.dropout, self.dropping) if training else self.head.head()
        return BoundAdapter("training", self.trainable.bound(), head)

    def forward(self, batch: Sequence[EncodedExample], share: float) -> Tensor:
        """The loss of a batch times `share`, its part of the step; () float32."""
        adapter = self.bound(training=True)
        loss = batch_loss(self.backbone, adapter, self.kind, batch, self.class_weights, self.head.scale)
        penalty = self.trainable.penalty()
        return (loss if penalty is None else loss + penalty) * share


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The trained parameters."""
    return [p for p in module.parameters() if p.requires_grad]

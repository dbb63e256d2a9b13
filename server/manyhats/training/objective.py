"""The loss of a batch, with the pass that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from manyhats.backbone.sentence import Pooling
from manyhats.core.kinds.examples import EncodedExample
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.methods.bound_adapter import BoundAdapter

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def forward_input(example: EncodedExample, adapter: BoundAdapter, pooling: Pooling = "mean") -> ForwardInput:
    """An example as one input of a pass."""
    return ForwardInput(example.ids, example.type_ids, adapter, pooling, mask_positions=example.label_positions)


def batch_loss(
    backbone: Backbone,
    adapter: BoundAdapter,
    kind: KindTraining,
    batch: Sequence[EncodedExample],
    weights: Tensor | None = None,
    scale: TargetScale | None = None,
) -> Tensor:
    """The mean over the batch's targets. `weights`: (labels,), of each class; `scale`: of the head."""
    pooling = backbone.sentence_embedding.pooling
    inputs = [forward_input(one, adapter, pooling) for examples in kind.inputs(batch) for one in examples]
    return kind.loss(forward(backbone, inputs), batch, weights, scale)


def balanced(counts: Sequence[int]) -> list[float]:
    """Weights for which all classes count equally: total / (classes * count), as scikit-learn's `balanced`."""
    total = sum(counts)
    return [total / (len(counts) * max(count, 1)) for count in counts]

"""Evaluates an adapter on labelled examples, with the pass that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyhats.backbone.sentence import Pooling
from manyhats.core.kinds.examples import EncodedExample
from manyhats.core.kinds.metrics import Score, joined
from manyhats.core.kinds.training import KindTraining
from manyhats.engine.forward import forward
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.training.batches import ordered_batches
from manyhats.training.objective import forward_input

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_EVALUATION_TOKENS = 4096  # of one batch; without gradients there is memory for more


@torch.inference_mode()
def predict(
    backbone: Backbone, adapter: BoundAdapter, examples: Sequence[EncodedExample], pooling: Pooling = "mean"
) -> list[Tensor]:
    """The forward pass's outputs for every example, in the examples' order."""
    outputs: dict[int, Tensor] = {}
    for batch in ordered_batches(examples, _EVALUATION_TOKENS):
        inputs = [forward_input(examples[i], adapter, pooling) for i in batch]
        outputs.update(zip(batch, forward(backbone, inputs), strict=True))
    return [outputs[i] for i in range(len(examples))]


@torch.inference_mode()
def evaluate(
    backbone: Backbone, adapter: BoundAdapter, kind: KindTraining, examples: Sequence[EncodedExample]
) -> Score:
    """The score of an adapter on labelled examples."""
    at_once = kind.evaluated_at_once
    if at_once is None:
        return _score(backbone, adapter, kind, examples)
    groups = [examples[start : start + at_once] for start in range(0, len(examples), at_once)]
    return joined([_score(backbone, adapter, kind, group) for group in groups])


def _score(backbone: Backbone, adapter: BoundAdapter, kind: KindTraining, examples: Sequence[EncodedExample]) -> Score:
    pooling = backbone.sentence_embedding.pooling
    sides = kind.inputs(examples)
    return kind.score([output for side in sides for output in predict(backbone, adapter, side, pooling)], examples)

"""How good an adapter is on labelled items, through the pass that serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.engine.forward import forward
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.training.batches import Item, ordered_batches
from manyhats.training.metrics import Score, joined, score
from manyhats.training.objective import row_of
from manyhats.training.rows import TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
from manyhats.backbone.sentence import Pooling

_ANSWERS = 16  # that are judged at once
_EVALUATION_TOKENS = 4096  # of one batch; without gradients there is room for more


@torch.inference_mode()
def predict(
    backbone: Backbone, adapter: BoundAdapter, items: Sequence[Item], pooling: Pooling = "mean"
) -> list[Tensor]:
    """What the forward pass gives for every item, in the items' order."""
    outputs: dict[int, Tensor] = {}
    for batch in ordered_batches(items, _EVALUATION_TOKENS):
        rows = [row_of(items[i], adapter, pooling) for i in batch]
        outputs.update(zip(batch, forward(backbone, rows), strict=True))
    return [outputs[i] for i in range(len(items))]


@torch.inference_mode()
def evaluate(backbone: Backbone, adapter: BoundAdapter, kind: TaskKind, items: Sequence[Item]) -> Score:
    """The score of an adapter on labelled items."""
    if kind == "embed":
        return _found(backbone, adapter, items)
    if kind != "generate":
        return score(kind, predict(backbone, adapter, items), items)
    parts: list[Score] = []  # the logits of all answers over the whole vocabulary would not fit
    for start in range(0, len(items), _ANSWERS):
        some = items[start : start + _ANSWERS]
        parts.append(score(kind, predict(backbone, adapter, some), some))
    return joined(parts)


def _found(backbone: Backbone, adapter: BoundAdapter, items: Sequence[Item]) -> Score:
    """How many texts have their own nearest among all the others of the data, by cosine."""
    pooling = backbone.sentence_embedding.pooling
    others = [item.other for item in items if item.other is not None]
    sides = [F.normalize(torch.stack(predict(backbone, adapter, side, pooling)), dim=-1) for side in (items, others)]
    nearest = (sides[0] @ sides[1].T).argmax(-1).tolist()
    right = sum(others[n].ids == other.ids for n, other in zip(nearest, others, strict=True))
    return Score("embed", right / max(len(items), 1) if len(items) else math.nan, len(items))

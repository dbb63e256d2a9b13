"""What is made small: the loss of every kind of task on a batch's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.training.batches import IGNORED, Item
from manyhats.training.heads import NoHead, TrainableHead
from manyhats.training.rows import TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
from manyhats.backbone.sentence import Pooling

# Of the cosine between two texts that belong together (Gao et al. 2021, section 3: 0.05).
_TEMPERATURE = 0.05


def row_of(item: Item, adapter: BoundAdapter, pooling: Pooling = "mean") -> ForwardInput:
    """An item as a row of a batch."""
    return ForwardInput(item.ids, item.type_ids, adapter, pooling, mask_positions=item.asked)


def places(kind: TaskKind, batch: Sequence[Item]) -> int:
    """How many places a batch is judged at: inputs, words, or tokens of answers."""
    if kind == "generate":
        return sum(len(item.asked) for item in batch)
    if kind == "tokens":
        return sum(t != IGNORED for item in batch for t in item.target)  # type: ignore[union-attr]
    return len(batch)


def batch_loss(
    backbone: Backbone,
    adapter: BoundAdapter,
    head: TrainableHead | NoHead,
    kind: TaskKind,
    batch: Sequence[Item],
    weights: Tensor | None = None,
) -> Tensor:
    """The mean over the batch's places. `weights`: (labels,), how much each class counts."""
    pooling = backbone.sentence_embedding.pooling
    rows = [row_of(item, adapter, pooling) for item in batch]
    if kind == "embed":
        rows += [row_of(item.other, adapter, pooling) for item in batch if item.other is not None]
    outputs = forward(backbone, rows)
    if kind == "embed":
        return _contrast(torch.stack(outputs[: len(batch)]), torch.stack(outputs[len(batch) :]))
    if kind == "span":
        return _ends(outputs, batch)
    device = outputs[0].device
    if kind in ("tokens", "generate"):
        targets = torch.tensor([t for item in batch for t in item.target], device=device)  # type: ignore[union-attr]
        return F.cross_entropy(torch.cat(list(outputs)).float(), targets, weights, ignore_index=IGNORED)
    targets = torch.tensor([item.target for item in batch], device=device)
    logits = torch.stack(list(outputs)).float()
    if kind == "classify":
        return F.cross_entropy(logits, targets, weights)
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weights)
    assert isinstance(head, TrainableHead)
    return F.mse_loss(logits[:, 0] / head.spread, targets.float() / head.spread)


def _contrast(one: Tensor, other: Tensor) -> Tensor:
    """Each text is to find its own among the others of the batch, both ways (InfoNCE; van den Oord et al. 2018).

    one, other: (pairs, width).
    """
    cosines = F.normalize(one.float(), dim=-1) @ F.normalize(other.float(), dim=-1).T / _TEMPERATURE
    own = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2


def _ends(outputs: Sequence[Tensor], batch: Sequence[Item]) -> Tensor:
    """Start and end of the answer among the context's tokens (Devlin et al. 2019, section 4.2)."""
    losses = []
    for output, item in zip(outputs, batch, strict=True):
        assert isinstance(item.target, list)
        if item.target[0] == IGNORED:
            losses.append(output.float().sum() * 0)
            continue
        ends = torch.tensor(item.target, device=output.device) - item.context.start
        losses.append(F.cross_entropy(output[item.context].float().T, ends))
    return torch.stack(losses).mean()


def balanced(counts: Sequence[int]) -> list[float]:
    """Weights that make all classes count alike: total / (classes * count), as scikit-learn's `balanced`."""
    total = sum(counts)
    return [total / (len(counts) * max(count, 1)) for count in counts]

"""The training loop.

Every step runs `engine.forward.forward`, the pass that serves, with gradients; the backbone is frozen and in eval
mode, as it is when it serves.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.engine.forward import Row, forward
from manyhats.errors import InvalidRequest
from manyhats.methods import METHODS
from manyhats.methods.adapter import Adapter, BoundAdapter
from manyhats.training.batches import IGNORED, Item, ordered_batches, shuffled_batches
from manyhats.training.data import TaskKind
from manyhats.training.heads import NoHead, TrainableHead, head_for
from manyhats.training.metrics import Score, score
from manyhats.training.progress import Silent, Watcher
from manyhats.training.recipes import Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_ANSWERS = 16  # that are judged at once
_EVALUATION_TOKENS = 4096  # of one batch; without gradients there is room for more


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training. `seconds`: of the loop, validation included."""

    validation: Score
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    losses: tuple[float, ...]  # mean of every epoch
    stopped: str | None  # why training ended before its last epoch, as a sentence


class Trainer:
    """An adapter in training: the method's weights and a head, on a frozen backbone."""

    def __init__(
        self,
        backbone: Backbone,
        method: str,
        kind: TaskKind,
        num_labels: int,
        schedule: Schedule,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises InvalidRequest for an option that the method does not have."""
        if backbone.dtype != torch.float32:
            raise InvalidRequest(f"training needs a backbone in float32, not {backbone.dtype}", param="dtype")
        self.backbone = backbone
        self.kind: TaskKind = kind
        self.schedule = schedule
        self._method = METHODS[method]
        fresh = torch.Generator().manual_seed(schedule.seed)
        self.trainable = self._method.trainable(backbone, options or {}, fresh)
        if kind == "generate" and not backbone.has_language_model:
            raise InvalidRequest(f"the backbone {backbone.name} cannot generate text", param="kind")
        self.head = NoHead() if kind == "generate" else head_for(backbone, method, kind, num_labels, fresh)
        self._order = torch.Generator().manual_seed(schedule.seed + 1)
        self._dropping = torch.Generator(backbone.device).manual_seed(schedule.seed + 2)

    @property
    def parameters(self) -> tuple[int, int]:
        """How many numbers are trained: (method, head)."""
        return tuple(sum(p.numel() for p in m.parameters()) for m in (self.trainable, self.head))  # type: ignore[return-value]

    @property
    def position_shift(self) -> int:
        """How many of the backbone's positions the method takes for itself."""
        return self.trainable.bound().position_shift

    def bound(self, *, training: bool = False) -> BoundAdapter:
        """The adapter as it is now, with gradients where they are switched on."""
        head = self.head.head(self.schedule.dropout, self._dropping) if training else self.head.head()
        return BoundAdapter(self._method.name, self.kind, ((self._method, self.trainable.bound()),), head)

    def adapter(self, settings: Mapping[str, Any]) -> Adapter:
        """The adapter to be saved."""
        return Adapter(
            parts=(self.trainable.part(),),
            head=self.head.saved(),
            kind=self.kind,
            matched_tensors=0,
            base=self.backbone.name,
            settings=settings,
        )

    def run(self, train: Sequence[Item], validation: Sequence[Item], watcher: Watcher | None = None) -> Outcome:
        """Trains, and leaves the state that was best on the validation data in place.

        Raises InvalidRequest where the loss stops being a number before the first validation.
        """
        watcher = watcher or Silent()
        schedule = self.schedule
        if self.kind == "regress":
            assert isinstance(self.head, TrainableHead)
            self.head.scale_to([item.target for item in train])  # type: ignore[misc]
        epochs = [
            shuffled_batches(train, schedule.batch_tokens, self._order) for _ in range(schedule.epochs)
        ]  # all at once, since the decay must know the number of steps
        optimizer = self._optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, warm_up_and_decay(sum(map(len, epochs)), schedule.warm_up)
        )
        modules = torch.nn.ModuleList([self.trainable, self.head])
        best: Score | None = None
        best_state: dict[str, Any] = {}
        best_epoch = steps = 0
        losses: list[float] = []
        stopped: str | None = None
        start = time.perf_counter()
        for epoch, batches in enumerate(epochs, start=1):
            total = 0.0
            for batch in batches:
                steps += 1
                loss = self._step(batch, modules, optimizer)
                if loss is None:
                    stopped = f"The loss was not a finite number at step {steps}; a lower learning rate may help."
                    break
                scheduler.step()
                total += loss
                watcher.step(epoch, loss)
            if stopped:
                break
            losses.append(total / len(batches))
            now = evaluate(self.backbone, self.bound(), self.kind, validation)
            watcher.epoch(epoch, losses[-1], now, time.perf_counter() - start)
            if now.better_than(best):
                best, best_epoch = now, epoch
                best_state = copy.deepcopy(modules.state_dict())
            elif epoch - best_epoch >= schedule.patience:
                if epoch < schedule.epochs:
                    stopped = f"No better validation score for {schedule.patience} epochs."
                break
        if best is None:
            raise InvalidRequest(
                stopped or "The validation score was not a finite number; a lower learning rate may help.",
                param="learning_rate",
            )
        modules.load_state_dict(best_state)
        return Outcome(
            validation=best,
            best_epoch=best_epoch,
            epochs=len(losses),
            steps=steps,
            seconds=time.perf_counter() - start,
            losses=tuple(losses),
            stopped=stopped,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        schedule = self.schedule
        return torch.optim.AdamW(
            [
                {"params": list(self.trainable.parameters()), "lr": schedule.learning_rate},
                {"params": list(self.head.parameters()), "lr": schedule.head_learning_rate},
            ],
            weight_decay=schedule.weight_decay,
            fused=self.backbone.device.type in ("cpu", "cuda"),  # one pass over the weights in place of ten
        )

    def _step(self, batch: Sequence[Item], modules: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float | None:
        """One step; its loss, or None where that or a gradient is not finite (the weights stay as they were)."""
        optimizer.zero_grad(set_to_none=True)
        adapter = self.bound(training=True)
        outputs = forward(self.backbone, [row_of(item, adapter) for item in batch])
        loss = self._loss(outputs, batch)
        value = loss.item()
        if not math.isfinite(value):
            return None
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(modules.parameters(), self.schedule.clip)
        if not math.isfinite(norm.item()):
            return None
        optimizer.step()
        return value

    def _loss(self, outputs: Sequence[Tensor], batch: Sequence[Item]) -> Tensor:
        """Mean over the batch's inputs, its words, or its answers' tokens."""
        device = outputs[0].device
        if self.kind == "generate":
            tokens = torch.tensor([t for item in batch for t in item.target], device=device)  # type: ignore[union-attr]
            return F.cross_entropy(torch.cat(list(outputs)), tokens)
        if self.kind == "tokens":
            tags = torch.tensor([t for item in batch for t in item.target], device=device)  # type: ignore[union-attr]
            return F.cross_entropy(torch.cat(list(outputs)), tags, ignore_index=IGNORED)
        targets = torch.tensor([item.target for item in batch], device=device)
        logits = torch.stack(list(outputs))
        if self.kind == "classify":
            return F.cross_entropy(logits, targets)
        assert isinstance(self.head, TrainableHead)
        return F.mse_loss(logits[:, 0] / self.head.spread, targets / self.head.spread)


def warm_up_and_decay(steps: int, warm_up: float) -> Any:
    """Rises in a line over the share `warm_up` of the steps, then falls in a line to zero; 1 at the peak."""
    rising = max(round(steps * warm_up), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max((steps - step) / max(steps - rising, 1), 0.0)

    return factor


@torch.inference_mode()
def predict(backbone: Backbone, adapter: BoundAdapter, items: Sequence[Item], pooling: str = "mean") -> list[Tensor]:
    """What the forward pass gives for every item, in the items' order."""
    outputs: dict[int, Tensor] = {}
    for batch in ordered_batches(items, _EVALUATION_TOKENS):
        rows = [row_of(items[i], adapter, pooling) for i in batch]
        outputs.update(zip(batch, forward(backbone, rows), strict=True))
    return [outputs[i] for i in range(len(items))]


def row_of(item: Item, adapter: BoundAdapter, pooling: str = "mean") -> Row:
    """An item as a row of a batch."""
    return Row(item.ids, item.type_ids, adapter, pooling, masks=item.asked)


@torch.inference_mode()
def evaluate(backbone: Backbone, adapter: BoundAdapter, kind: TaskKind, items: Sequence[Item]) -> Score:
    """The score of an adapter on labelled items."""
    if kind != "generate":
        return score(kind, predict(backbone, adapter, items), items)
    parts: list[Score] = []  # the logits of all answers over the whole vocabulary would not fit
    for start in range(0, len(items), _ANSWERS):
        some = items[start : start + _ANSWERS]
        parts.append(score(kind, predict(backbone, adapter, some), some))
    count = sum(part.count for part in parts)
    return Score(kind, math.fsum(part.value * part.count for part in parts) / count, count)

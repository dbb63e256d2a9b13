"""The training loop.

Every step runs `engine.forward.forward`, the pass that serves, with gradients; the backbone is frozen and in eval
mode, as it is when it serves. Several processes and bfloat16 come from accelerate.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manyhats.core.adapter import Adapter
from manyhats.errors import InvalidRequest
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.recipe import Schedule
from manyhats.training.batches import Item, shuffled_batches
from manyhats.training.checkpoints import Checkpoints
from manyhats.training.evaluation import evaluate
from manyhats.training.heads import TrainableHead, head_for, served
from manyhats.training.metrics import Score
from manyhats.training.objective import batch_loss, places
from manyhats.training.parts import TrainableParts
from manyhats.training.progress import Silent, Watcher
from manyhats.training.recipes import recipe_for
from manyhats.training.rows import TaskKind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_NO_ROOM = ("allocate memory", "out of memory", "not enough memory")  # of a CPU's allocator, which has no own error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training. `seconds`: of the loop, validation included; `losses`, `scores`: of every epoch."""

    validation: Score
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    step_losses: tuple[float, ...]
    stopped: str | None  # why training ended before its last epoch, as a sentence


@dataclass(slots=True)
class _Place:
    """Where a training is; plain values, for a checkpoint. Epochs are counted over all stages."""

    stage: int = 0
    epoch: int = 0  # of this stage, finished
    step: int = 0  # of this epoch, done
    steps: int = 0
    best_epoch: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None
    done: bool = False  # with this stage


class _Learner(nn.Module):
    """All weights in training, and a batch's loss: what several processes share."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainable = trainer.trainable
        self.head = trainer.head
        self._of = (trainer,)  # no submodule

    def forward(self, batch: Sequence[Item], share: float) -> Tensor:
        """The loss of a batch times `share`, its part of the step; () float32."""
        trainer = self._of[0]
        adapter = trainer.bound(training=True)
        loss = batch_loss(trainer.backbone, adapter, self.head, trainer.kind, batch, trainer.class_weights)
        penalty = self.trainable.penalty()
        return (loss if penalty is None else loss + penalty) * share


class Trainer:
    """An adapter in training: the method's weights and a head, on a frozen backbone."""

    def __init__(
        self,
        backbone: Backbone,
        recipe: str,
        kind: TaskKind,
        num_labels: int,
        schedule: Schedule,
        options: Mapping[str, Any] | None = None,
        *,
        class_weights: Sequence[float] | None = None,
        precision: str = "no",
    ) -> None:
        """`class_weights`: how much each label counts. `precision`: `no` or `bf16`, of the pass in training.

        Raises InvalidRequest for an option that the method does not have, ConfigurationError for embeddings of a
        backbone whose own pooling is not supported.
        """
        if backbone.dtype != torch.float32:
            raise InvalidRequest(f"training needs a backbone in float32, not {backbone.dtype}", param="dtype")
        if kind == "generate" and not backbone.has_language_model:
            raise InvalidRequest(f"the backbone {backbone.name} cannot generate text", param="kind")
        if kind == "embed":
            backbone.sentence_embedding.check()
        chosen = recipe_for(recipe, baselines=True)
        self.backbone = backbone
        self.kind: TaskKind = kind
        self.schedule = schedule
        self._fresh = torch.Generator().manual_seed(schedule.seed)
        self.trainable = TrainableParts(backbone, chosen, options or {}, self._fresh)
        self.head = head_for(backbone, chosen, kind, num_labels, self._fresh)
        if kind == "generate":
            _check_causal(self.trainable)
        if not any(self.parameters):
            raise InvalidRequest(f"{recipe} trains a head alone, and the kind {kind} has none", param="method")
        self.class_weights: Tensor | None = None
        if class_weights is not None:
            self.class_weights = torch.tensor(class_weights, device=backbone.device)
        self._order = torch.Generator().manual_seed(schedule.seed + 1)
        self._accelerator = Accelerator(
            device_placement=False, cpu=backbone.device.type == "cpu", mixed_precision=precision
        )
        own = schedule.seed + 2 + 1000 * self._accelerator.process_index  # each process leaves out other values
        self._dropping = torch.Generator(backbone.device).manual_seed(own)

    @property
    def parameters(self) -> tuple[int, int]:
        """How many numbers are trained: (method, head)."""
        method, head = (sum(p.numel() for p in _trained(m)) for m in (self.trainable, self.head))
        return method, head

    @property
    def leads(self) -> bool:
        """Whether this is the process, of several, that writes and tells."""
        return bool(self._accelerator.is_main_process)

    @property
    def position_offset(self) -> int:
        """How many of the backbone's positions the method takes for itself."""
        return sum(bound.position_offset for _, bound in self.trainable.bound())

    def bound(self, *, training: bool = False) -> BoundAdapter:
        """The adapter as it is now, with gradients where they are switched on."""
        self.trainable.train(training)
        head = self.head.head(self.schedule.dropout, self._dropping) if training else self.head.head()
        return BoundAdapter("training", self.trainable.bound(), head)

    def adapter(self, settings: Mapping[str, Any]) -> Adapter:
        """The adapter to be saved."""
        return Adapter(
            components=self.trainable.saved(),
            head=self.head.saved(),
            kind=served(self.kind),
            matched_tensors=0,
            base=self.backbone.name,
            settings=settings,
        )

    def run(
        self,
        train: Sequence[Item],
        validation: Sequence[Item],
        watcher: Watcher | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Outcome:
        """Trains, and leaves the state that was best on the validation data in place. With checkpoints it goes on where
        the last one was.

        Raises InvalidRequest where the loss stops being a number before the first validation, or memory ends.
        """
        watcher = watcher or Silent()
        if self.kind == "regress":
            assert isinstance(self.head, TrainableHead)
            self.head.scale_to([item.target for item in train])  # type: ignore[misc]
        plans = [
            [self._steps(train) for _ in range(self.schedule.epochs)] for _ in range(self.trainable.stages)
        ]  # all at once, since the decay must know the number of steps
        saved = None if checkpoints is None else checkpoints.load()
        place = _Place() if saved is None else _Place(**saved["place"])
        best_state: dict[str, Any] = {}
        best: Score | None = None
        if saved is not None:
            self.trainable.restore(place.stage, saved["trainable"])
            self.head.load_state_dict(saved["head"])
            self._fresh.set_state(saved["fresh"])
            self._dropping.set_state(saved["dropping"])
            watcher.resumed(place.steps)
            best_state = saved["best_state"]
            best = None if place.best is None else Score(self.kind, place.best, len(validation))
        first = place.stage
        for stage in range(first, self.trainable.stages):
            if stage > first:
                self.trainable.advance()
                place.stage, place.epoch, place.step, place.best, place.done = stage, 0, 0, None, False
                best_state, best = {}, None
            learner = _Learner(self)
            optimizer = self._optimizer()
            count = sum(map(len, plans[stage]))
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_decay(count, self.schedule.warm_up))
            if saved is not None and stage == first:
                optimizer.load_state_dict(saved["optimizer"])
                scheduler.load_state_dict(saved["scheduler"])
            run = _Stage(self, learner, optimizer, scheduler, place, watcher, checkpoints, best, best_state)
            best, best_state = run.epochs(plans[stage], validation)
            if best is None:
                raise InvalidRequest(
                    place.stopped or "The validation score was not a finite number; a lower learning rate may help.",
                    param="learning_rate",
                )
            learner.load_state_dict(best_state)
        assert best is not None
        return Outcome(
            validation=best,
            best_epoch=place.best_epoch,
            epochs=len(place.losses),
            steps=place.steps,
            seconds=place.seconds,
            losses=tuple(place.losses),
            scores=tuple(place.scores),
            step_losses=tuple(place.step_losses),
            stopped=place.stopped,
        )

    def _steps(self, items: Sequence[Item]) -> list[list[list[Item]]]:
        """An epoch: steps of batches of items. All processes make the same ones."""
        batches = shuffled_batches(items, self.schedule.batch_tokens, self._order)
        size = self.schedule.accumulate * self._accelerator.num_processes
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def _optimizer(self) -> torch.optim.Optimizer:
        schedule = self.schedule
        rates: dict[float, list[nn.Parameter]] = {}
        for times, parameter in self.trainable.rates():
            rates.setdefault(times, []).append(parameter)
        groups = [{"params": some, "lr": schedule.learning_rate * times} for times, some in rates.items()]
        heads = {"params": list(self.head.parameters()), "lr": schedule.head_learning_rate}
        return torch.optim.AdamW(
            [*groups, heads],
            weight_decay=schedule.weight_decay,
            fused=self.backbone.device.type in ("cpu", "cuda"),  # one pass over the weights in place of ten
        )


@dataclass(slots=True)
class _Stage:
    """One stage of a training under way."""

    trainer: Trainer
    learner: _Learner
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    place: _Place
    watcher: Watcher
    checkpoints: Checkpoints | None
    best: Score | None
    best_state: dict[str, Any]

    def epochs(
        self, plan: Sequence[Sequence[list[list[Item]]]], validation: Sequence[Item]
    ) -> tuple[Score | None, dict[str, Any]]:
        """Runs what is left of the plan; the best validation score and the state that had it."""
        place, patience = self.place, self.trainer.schedule.patience
        accelerator = self.trainer._accelerator
        several = accelerator.num_processes > 1
        model = accelerator.prepare_model(self.learner, device_placement=False) if several else self.learner
        begin = time.perf_counter() - place.seconds
        while place.epoch < len(plan) and not place.done:
            steps = plan[place.epoch]
            while place.step < len(steps):
                loss = self._step(model, steps[place.step])
                if loss is None:
                    place.stopped = (
                        f"The loss was not a finite number at step {place.steps + 1}; a lower learning rate may help."
                    )
                    place.done = True
                    break
                self.scheduler.step()
                place.step += 1
                place.steps += 1
                place.step_losses.append(loss)
                place.seconds = time.perf_counter() - begin
                self.watcher.step(len(place.losses) + 1, loss)
                if self.checkpoints is not None and self.checkpoints.due():
                    self._save()
            if place.done:
                break
            place.losses.append(sum(place.step_losses[-len(steps) :]) / len(steps))
            place.epoch, place.step = place.epoch + 1, 0
            now = evaluate(self.trainer.backbone, self.trainer.bound(), self.trainer.kind, validation)
            place.scores.append(now.value)
            place.seconds = time.perf_counter() - begin
            self.watcher.epoch(len(place.losses), place.losses[-1], now, place.seconds)
            if now.better_than(self.best):
                self.best, place.best, place.best_epoch = now, now.value, len(place.losses)
                self.best_state = copy.deepcopy(self.learner.state_dict())
            elif len(place.losses) - place.best_epoch >= patience:
                if place.epoch < len(plan):
                    place.stopped = f"No better validation score for {patience} epochs."
                place.done = True
            if self.checkpoints is not None:
                self._save()
        return self.best, self.best_state

    def _save(self) -> None:
        trainer = self.trainer
        if self.checkpoints is None or not trainer._accelerator.is_main_process:
            return
        self.checkpoints.save(
            {
                "place": asdict(self.place),
                "trainable": trainer.trainable.state_dict(),
                "head": trainer.head.state_dict(),
                "best_state": self.best_state,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "fresh": trainer._fresh.get_state(),
                "dropping": trainer._dropping.get_state(),
            }
        )

    def _step(self, model: nn.Module, batches: Sequence[list[Item]]) -> float | None:
        """One step; its loss, or None where that or a gradient is not finite (the weights stay as they were).

        The batches' losses are weighted by their places, so that the step is that of all of them in one batch.
        """
        trainer = self.trainer
        accelerator = trainer._accelerator
        self.optimizer.zero_grad(set_to_none=True)
        total = max(sum(places(trainer.kind, batch) for batch in batches), 1)
        world = accelerator.num_processes
        own = list(batches[accelerator.process_index :: world])
        turns = math.ceil(len(batches) / world)
        value = 0.0
        try:
            for turn in range(turns):
                batch = own[turn] if turn < len(own) else batches[0]  # all must take part in every exchange
                share = places(trainer.kind, batch) / total if turn < len(own) else 0.0
                with accelerator.autocast():
                    loss = model(batch, share * world)
                value += loss.item() / world
                if not math.isfinite(value) and world == 1:
                    return None
                accelerator.backward(loss)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(t in str(error) for t in _NO_ROOM):
                raise InvalidRequest(
                    f"out of memory at step {self.place.steps + 1}, in a batch of "
                    f"{max(sum(item.size for item in batch) for batch in batches)} tokens: lower --batch-tokens (and "
                    "raise --accumulate, so that the step stays as large) or --max-tokens",
                    param="batch_tokens",
                ) from None
            raise
        if world > 1:
            value = float(accelerator.reduce(torch.tensor(value, device=trainer.backbone.device), "sum"))
        norm = torch.nn.utils.clip_grad_norm_(_trained(self.learner), trainer.schedule.clip)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            return None
        self.optimizer.step()
        return value


def _check_causal(trainable: TrainableParts) -> None:
    """Raises InvalidRequest for what would read the answer that it is to learn to write."""
    gated = any(part.gated for part in trainable.saved())
    if gated or any(method.lm_head_conflict is not None for method in trainable.methods):
        what = (
            "a gate reads the whole text, its answer too" if gated else "its inverse is not supported before that head"
        )
        raise InvalidRequest(f"the method cannot learn to write texts: {what}", param="method")


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def warm_up_and_decay(steps: int, warm_up: float) -> Any:
    """Rises in a line over the share `warm_up` of the steps, then falls in a line to zero; 1 at the peak."""
    rising = max(round(steps * warm_up), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max((steps - step) / max(steps - rising, 1), 0.0)

    return factor

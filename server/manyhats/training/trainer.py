"""Training of one adapter: its weights, its optimizer, its stages.

Every step runs `engine.forward.forward`, the pass that serves, with gradients; the backbone is frozen and in eval
mode, as it is when it serves. Several processes and bfloat16 come from accelerate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.examples import EncodedExample
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.registry import TRAININGS
from manyhats.core.kinds.training import KindTraining
from manyhats.errors import InvalidRequest
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.recipe import Schedule
from manyhats.training.batches import shuffled_batches
from manyhats.training.checkpoints import Checkpoints
from manyhats.training.components import TrainableComponents
from manyhats.training.heads import head_for
from manyhats.training.learner import Learner, trained
from manyhats.training.progress import NoWatcher, Watcher
from manyhats.training.recipes import recipe_for
from manyhats.training.stage import Stage, Step, TrainerState, warm_up_and_decay

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a training. `seconds`: of the loop, validation included; `losses`, `scores`: of every epoch."""

    validation: Score
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    step_losses: tuple[float, ...]
    stopped: str | None  # why training ended before its last epoch, as a sentence
    diverged: bool = False  # whether it ended because the loss was no finite number


class Trainer:
    """An adapter in training: the method's weights and a head, on a frozen backbone."""

    def __init__(
        self,
        backbone: Backbone,
        recipe: str,
        kind: str,
        num_labels: int,
        schedule: Schedule,
        options: Mapping[str, Any] | None = None,
        *,
        class_weights: Sequence[float] | None = None,
        precision: str = "no",
    ) -> None:
        """`kind`: the name of one of `TRAININGS`. `class_weights`: of each label. `precision`: `no` or `bf16`, of the
        pass in training.

        Raises InvalidRequest for an unknown option, ConfigurationError for embeddings of a
        backbone whose own pooling is not supported.
        """
        if backbone.dtype != torch.float32:
            raise InvalidRequest(f"training needs a backbone in float32, not {backbone.dtype}", param="dtype")
        self.kind: KindTraining = TRAININGS[kind]
        self.kind.check_backbone(backbone)
        chosen = recipe_for(recipe, baselines=True)
        self.backbone = backbone
        self.schedule = schedule
        self._init_weights = torch.Generator().manual_seed(schedule.seed)
        self.trainable = TrainableComponents(backbone, chosen, options or {}, self._init_weights)
        self.head = head_for(backbone, chosen, self.kind, num_labels, self._init_weights)
        if self.kind.causal:
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
        own = schedule.seed + 2 + 1000 * self._accelerator.process_index  # processes have different dropout
        self._dropping = torch.Generator(backbone.device).manual_seed(own)
        self.learner = Learner(
            backbone, self.kind, self.trainable, self.head, self.class_weights, schedule.dropout, self._dropping
        )

    @property
    def parameters(self) -> tuple[int, int]:
        """The number of trained values: (method, head)."""
        method, head = (sum(p.numel() for p in trained(m)) for m in (self.trainable, self.head))
        return method, head

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process, of several, that writes and reports."""
        return bool(self._accelerator.is_main_process)

    @property
    def position_offset(self) -> int:
        """How many of the backbone's positions the method uses."""
        return sum(bound.position_offset for _, bound in self.trainable.bound())

    def bound(self, *, training: bool = False) -> BoundAdapter:
        """The adapter with its current weights, with gradients where they are enabled."""
        return self.learner.bound(training=training)

    def adapter(self, settings: Mapping[str, Any]) -> Adapter:
        """The adapter to be saved."""
        return Adapter(
            components=self.trainable.saved(),
            head=self.head.saved(),
            kind=self.kind.served_as.name,
            matched_tensors=0,
            base=self.backbone.name,
            settings=settings,
        )

    def run(
        self,
        train: Sequence[EncodedExample],
        validation: Sequence[EncodedExample],
        watcher: Watcher | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Outcome:
        """Trains, and restores the state that was best on the validation data. With checkpoints it continues from the
        last one.

        Raises InvalidRequest where the loss is not finite before the first validation, or memory is exhausted.
        """
        watcher = watcher or NoWatcher()
        self.head.scale = self.kind.target_scale(train)
        plans = [
            [self._steps(train) for _ in range(self.schedule.epochs)] for _ in range(self.trainable.stages)
        ]  # all at once, since the schedule needs the number of steps
        saved = None if checkpoints is None else checkpoints.load()
        state = TrainerState() if saved is None else TrainerState(**saved["place"])
        generators = {"fresh": self._init_weights, "dropping": self._dropping}
        best_state: dict[str, Any] = {}
        best: Score | None = None
        if saved is not None:
            self.trainable.restore(state.stage, saved["trainable"])
            self.head.load_state_dict(saved["head"])
            for name, generator in generators.items():
                generator.set_state(saved[name])
            watcher.resumed(state.steps)
            best_state = saved["best_state"]
            best = None if state.best is None else Score(self.kind.metric, state.best, len(validation))
        first = state.stage
        for stage in range(first, self.trainable.stages):
            if stage > first:
                self.trainable.advance()
                state.stage, state.epoch, state.step, state.best, state.done = stage, 0, 0, None, False
                best_state, best = {}, None
            optimizer = self._optimizer()
            count = sum(map(len, plans[stage]))
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_decay(count, self.schedule.warm_up))
            if saved is not None and stage == first:
                optimizer.load_state_dict(saved["optimizer"])
                scheduler.load_state_dict(saved["scheduler"])
            under_way = Stage(
                learner=self.learner,
                schedule=self.schedule,
                accelerator=self._accelerator,
                optimizer=optimizer,
                scheduler=scheduler,
                state=state,
                generators=generators,
                watcher=watcher,
                checkpoints=checkpoints,
                best=best,
                best_state=best_state,
            )
            best, best_state = under_way.epochs(plans[stage], validation)
            if best is None:
                raise InvalidRequest(
                    state.stopped or "The validation score was not a finite number; a lower learning rate may help.",
                    param="learning_rate",
                )
            self.learner.load_state_dict(best_state)
        assert best is not None
        return Outcome(
            validation=best,
            best_epoch=state.best_epoch,
            epochs=len(state.losses),
            steps=state.steps,
            seconds=state.seconds,
            losses=tuple(state.losses),
            scores=tuple(state.scores),
            step_losses=tuple(state.step_losses),
            stopped=state.stopped,
            diverged=state.diverged,
        )

    def _steps(self, examples: Sequence[EncodedExample]) -> list[Step]:
        """An epoch: steps of batches of examples. All processes make the same ones."""
        batches = shuffled_batches(examples, self.schedule.batch_tokens, self._order, self.schedule.batch_size)
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
            fused=self.backbone.device.type in ("cpu", "cuda"),  # one pass over the weights instead of ten
        )


def _check_causal(trainable: TrainableComponents) -> None:
    """Raises InvalidRequest for methods that are not causal, which would read the answer to be predicted."""
    gated = any(component.gated for component in trainable.saved())
    if gated or any(method.lm_head_conflict is not None for method in trainable.methods):
        what = (
            "a gate reads the whole text, its answer too" if gated else "its inverse is not supported before that head"
        )
        raise InvalidRequest(f"the method cannot learn to write texts: {what}", param="method")

"""The training loop of one stage: epochs of steps, each epoch judged on the validation data."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from manyhats.core.kinds.examples import EncodedExample
from manyhats.core.kinds.metrics import Score
from manyhats.errors import InvalidRequest
from manyhats.methods.recipe import Schedule
from manyhats.training.checkpoints import Checkpoints
from manyhats.training.evaluation import evaluate
from manyhats.training.learner import Learner, trained
from manyhats.training.progress import Watcher

if TYPE_CHECKING:
    from accelerate import Accelerator

# The CPU's allocator raises a plain RuntimeError.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory")

Step = list[list[EncodedExample]]  # batches whose gradients are summed


@dataclass(slots=True)
class TrainerState:
    """The progress of a training, for a checkpoint. Epochs are counted over all stages."""

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
    diverged: bool = False
    done: bool = False  # with this stage


@dataclass(slots=True)
class Stage:
    """One running stage. `generators`: whose states are in checkpoints, by name."""

    learner: Learner
    schedule: Schedule
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    state: TrainerState
    generators: Mapping[str, torch.Generator]
    watcher: Watcher
    checkpoints: Checkpoints | None
    best: Score | None
    best_state: dict[str, Any]

    def epochs(
        self, plan: Sequence[Sequence[Step]], validation: Sequence[EncodedExample]
    ) -> tuple[Score | None, dict[str, Any]]:
        """Runs the remaining epochs. Returns the best validation score and its state."""
        state, patience = self.state, self.schedule.patience
        several = self.accelerator.num_processes > 1
        model = self.accelerator.prepare_model(self.learner, device_placement=False) if several else self.learner
        begin = time.perf_counter() - state.seconds
        while state.epoch < len(plan) and not state.done:
            steps = plan[state.epoch]
            while state.step < len(steps):
                loss = self._step(model, steps[state.step])
                if loss is None:
                    state.stopped = (
                        f"The loss was not a finite number at step {state.steps + 1}; a lower learning rate may help."
                    )
                    state.diverged = state.done = True
                    break
                self.scheduler.step()
                state.step += 1
                state.steps += 1
                state.step_losses.append(loss)
                state.seconds = time.perf_counter() - begin
                self.watcher.step(len(state.losses) + 1, loss)
                if self.checkpoints is not None and self.checkpoints.due():
                    self._save()
            if state.done:
                break
            state.losses.append(sum(state.step_losses[-len(steps) :]) / len(steps))
            state.epoch, state.step = state.epoch + 1, 0
            now = evaluate(self.learner.backbone, self.learner.bound(), self.learner.kind, validation)
            state.scores.append(now.value)
            state.seconds = time.perf_counter() - begin
            self.watcher.epoch(len(state.losses), state.losses[-1], now, state.seconds)
            if now.better_than(self.best):
                self.best, state.best, state.best_epoch = now, now.value, len(state.losses)
                self.best_state = copy.deepcopy(self.learner.state_dict())
            elif len(state.losses) - state.best_epoch >= patience:
                if state.epoch < len(plan):
                    state.stopped = f"No better validation score for {patience} epochs."
                state.done = True
            if self.checkpoints is not None:
                self._save()
        return self.best, self.best_state

    def _save(self) -> None:
        if self.checkpoints is None or not self.accelerator.is_main_process:
            return
        self.checkpoints.save(
            {  # the keys of all versions' checkpoints
                "place": asdict(self.state),
                "trainable": self.learner.trainable.state_dict(),
                "head": self.learner.head.state_dict(),
                "best_state": self.best_state,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                **{name: generator.get_state() for name, generator in self.generators.items()},
            }
        )

    def _step(self, model: nn.Module, batches: Step) -> float | None:
        """One step; its loss, or None where that or a gradient is not finite (the weights stay as they were).

        The batches' losses are weighted by their numbers of targets, so that the step is the same as for a single
        batch.
        """
        accelerator, kind = self.accelerator, self.learner.kind
        self.optimizer.zero_grad(set_to_none=True)
        total = max(sum(kind.target_count(batch) for batch in batches), 1)
        world = accelerator.num_processes
        own = list(batches[accelerator.process_index :: world])
        rounds = math.ceil(len(batches) / world)
        value = 0.0
        try:
            for i in range(rounds):
                batch = own[i] if i < len(own) else batches[0]  # all processes must take part in every exchange
                share = kind.target_count(batch) / total if i < len(own) else 0.0
                with accelerator.autocast():
                    loss = model(batch, share * world)
                value += loss.item() / world
                if not math.isfinite(value) and world == 1:
                    return None
                accelerator.backward(loss)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(t in str(error) for t in _OUT_OF_MEMORY):
                raise InvalidRequest(
                    f"out of memory at step {self.state.steps + 1}, in a batch of "
                    f"{max(sum(example.size for example in batch) for batch in batches)} tokens: lower --batch-size "
                    "or --batch-tokens (and raise --accumulate, so that the step stays as large) or --max-tokens",
                    param="batch_tokens",
                ) from None
            raise
        if world > 1:
            value = float(accelerator.reduce(torch.tensor(value, device=self.learner.backbone.device), "sum"))
        norm = torch.nn.utils.clip_grad_norm_(trained(self.learner), self.schedule.clip)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            return None
        self.optimizer.step()
        return value


def warm_up_and_decay(steps: int, warm_up: float) -> Callable[[int], float]:
    """Rises linearly over the share `warm_up` of the steps, then falls linearly to zero; 1 at the peak."""
    rising = max(round(steps * warm_up), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max((steps - step) / max(steps - rising, 1), 0.0)

    return factor

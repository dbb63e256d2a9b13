"""The training recipes of a method.

Learning rates differ by a factor of thousands between methods, since they apply to very different parameters: a LoRA's
factors, a mask's scores, one number for every neuron. Those of the recipes were chosen by the validation score on small
data (`docs/training.md` has the figures, and the papers' own).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train. Learning rates are the peak values of AdamW."""

    learning_rate: float  # of the method's weights
    head_learning_rate: float = 1e-3
    epochs: int = 5  # of each stage, for methods with two
    batch_tokens: int = 512  # maximum tokens in a batch
    batch_size: int | None = None  # maximum rows in a batch; None: as many as the tokens allow
    accumulate: int = 1  # batches in a step
    patience: int = 2  # epochs without a better validation score until training stops
    seed: int = 0
    warm_up: float = 0.06  # share of the steps over which the learning rates rise
    clip: float = 1.0  # maximum norm of all gradients together
    weight_decay: float = 0.01
    dropout: float = 0.1  # share of the head's input that is left out


class Member(NamedTuple):
    """A method of a recipe: its options, and a factor of the schedule's learning rate."""

    method: str
    options: Mapping[str, Any] = {}
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method with options, under its usual name. `options`: the method's; `additional`: further methods that are
    trained with it; `needs`: an option that must be given; `peft`: written as PEFT does, with the family's own head;
    `baseline`: to compare with, not to serve; `general`: covers other recipes, by an option; `variants`: options with
    which the schedule is another recipe's, and its name."""

    method: str
    schedule: Schedule
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peft: bool = False
    baseline: bool = False
    additional: tuple[Member, ...] = ()
    needs: str | None = None
    general: bool = False
    variants: Mapping[str, str] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Member, ...]:
        """All methods, in the order in which they act."""
        return Member(self.method, self.options), *self.additional

"""The course of a training as a model card holds it: a line of the card's YAML head, its value JSON.

`manyhats train` writes it and the server reads it, also of cards that came from elsewhere. So it is bounded, and what
is not of this form is refused with the reason.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manyhats.errors import InvalidRequest
from manyhats.messages import first_error

FIELD = "training_history"
POINTS = 200  # of a curve at most

Number = Annotated[float, Field(allow_inf_nan=False)]
Counts = Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=POINTS, fail_fast=True)]
Losses = Annotated[list[Number], Field(max_length=POINTS, fail_fast=True)]
Scores = Annotated[list[Number | None], Field(max_length=POINTS, fail_fast=True)]


class TrainingHistory(BaseModel):
    """The curves of a training.

    `losses`: at each of `steps` the mean loss over the steps since the one before. `epoch_losses`: the mean over each
    of `epochs`; `scores`: the metric on the validation data behind it, null where it was no number.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "metric": "accuracy",
                    "more_is_better": True,
                    "steps": [10, 20, 30, 40],
                    "losses": [0.69, 0.41, 0.22, 0.18],
                    "epochs": [1, 2],
                    "epoch_losses": [0.55, 0.2],
                    "scores": [0.86, 0.91],
                    "best_epoch": 2,
                }
            ]
        },
    )

    metric: str = Field(max_length=100)
    more_is_better: bool
    steps: Counts
    losses: Losses
    epochs: Counts
    epoch_losses: Losses
    scores: Scores
    best_epoch: int = Field(ge=1)

    @model_validator(mode="after")
    def _coherent(self) -> TrainingHistory:
        if len(self.steps) != len(self.losses):
            raise ValueError("steps and losses are not of one length")
        if not len(self.epochs) == len(self.epoch_losses) == len(self.scores):
            raise ValueError("epochs, epoch_losses and scores are not of one length")
        for name, counts in (("steps", self.steps), ("epochs", self.epochs)):
            if any(after <= before for before, after in pairwise(counts)):
                raise ValueError(f"{name} do not rise")
        return self


def history_of(card: str | None) -> TrainingHistory | None:
    """The curves in a card's head; None where it has none. Raises InvalidRequest for any that are not of this form."""
    line = None if card is None else _line(card)
    if line is None:
        return None
    try:
        return TrainingHistory.model_validate_json(line, strict=True)
    except ValidationError as error:
        raise InvalidRequest(f"the card's {FIELD} cannot be read: {first_error(error).message}", param=FIELD) from None


def history_warnings(card: str | None) -> tuple[str, ...]:
    """Why a card's curves are not shown, where it has some that cannot be read."""
    try:
        history_of(card)
    except InvalidRequest as error:
        return (error.message,)
    return ()


def _line(card: str) -> str | None:
    """The value behind the field's name in the head, which is between two lines of dashes."""
    if not card.startswith("---\n"):
        return None
    head = card.removeprefix("---\n").partition("\n---")[0]
    start = f"{FIELD}:"
    return next((line.removeprefix(start).strip() for line in head.split("\n") if line.startswith(start)), None)

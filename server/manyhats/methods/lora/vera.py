"""VeRA: a LoRA of random matrices that all layers share, scaled by two learned vectors (Kopiczko et al. 2024).

y = W x + b + diag(lambda_b) B diag(lambda_d) A x          (equation 2)
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from manyhats.methods.component import StateDict

_MAX_VALUES = 1 << 26  # values of the two matrices; a small file can describe very large ones


class SharedMatrices(BaseModel):
    """How the two matrices are generated: A (rank, inputs), B (outputs, rank), with the largest layer's sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rank: int = Field(gt=0, le=1 << 14)
    key: int = Field(default=0, ge=-(1 << 63), lt=1 << 63)  # the generator's seed
    outputs: int = Field(gt=0)
    inputs: int = Field(gt=0)

    @model_validator(mode="after")
    def _not_too_large(self) -> Self:
        values = self.rank * (self.outputs + self.inputs)
        if values > _MAX_VALUES:
            raise ValueError(f"VeRA's matrices would have {values} values; at most {_MAX_VALUES}")
        return self


def make_matrices(shared: SharedMatrices) -> tuple[Tensor, Tensor]:
    """A and B as PEFT generates them from the key."""
    generator = torch.Generator().manual_seed(shared.key)

    def init(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(3.0) * math.sqrt(2) / math.sqrt(columns)  # Kaiming's, uniform
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

    return init(shared.rank, shared.inputs), init(shared.outputs, shared.rank)


def materialise(lambda_b: Tensor, lambda_d: Tensor, down: Tensor, up: Tensor, width: int) -> StateDict:
    """One layer's `A` (rank, width) and `B` (out, rank). `down`: (rank, inputs), `up`: (outputs, rank)."""
    return {"A": lambda_d[:, None] * down[:, :width], "B": lambda_b[:, None] * up[: len(lambda_b)]}

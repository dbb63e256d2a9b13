"""The rows of one pass: the concatenated tokens of some sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.attention import PassLayout
from manyhats.backbone.staging import StagingBuffer


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The concatenated tokens of some sequences, without padding. T tokens, S sequences.

    A sequence's virtual tokens, whose vectors are an adapter's, precede its own. Tensors are on the device once
    `staging` has been committed.
    """

    starts: tuple[int, ...]  # (S + 1,) first row of each sequence, and T
    lengths: tuple[int, ...]  # (S,) rows of each sequence; pads may follow
    layout: PassLayout | None  # None where the model runs padded
    staging: StagingBuffer

    @property
    def input_ids(self) -> Tensor:
        """(T,); any index at virtual tokens."""
        return self.staging["input_ids"]

    @property
    def host_input_ids(self) -> NDArray[np.int64]:
        """`input_ids` in host memory."""
        return self.staging.host("input_ids")

    @property
    def type_ids(self) -> Tensor | None:
        """(T,)."""
        return self.staging.get("type_ids")

    @property
    def host_type_ids(self) -> NDArray[np.int64] | None:
        """`type_ids` in host memory."""
        return self.staging.host("type_ids") if "type_ids" in self.staging else None

    @property
    def position_ids(self) -> Tensor:
        """(T,)."""
        return self.staging["position_ids"]

    @property
    def padded(self) -> int | None:
        """Rows of each sequence, pads included, where the model runs padded."""
        return None if self.layout is not None else self.starts[1]

    @property
    def padding_mask(self) -> Tensor:
        """(S, padded), 1 at tokens and 0 at pads, where the model runs padded."""
        assert self.padded is not None
        indices = torch.arange(self.padded, device=self.input_ids.device)
        return (indices < self.staging["lengths"][:, None]).long()

    def rows(self, sequences: slice) -> slice:
        """The rows of consecutive sequences."""
        return slice(self.starts[sequences.start], self.starts[sequences.stop])

    def sequence_rows(self, sequences: slice) -> tuple[slice, ...]:
        """The rows of each of some consecutive sequences, without pads."""
        return tuple(
            slice(self.starts[i], self.starts[i] + self.lengths[i]) for i in range(sequences.start, sequences.stop)
        )

"""A copy of a frozen weight in the layout of the CPU's matrix kernels."""

from __future__ import annotations

from torch import Tensor

from manyhats.backbone.torch_internals import linear_reordered, reorder_linear_weight

_EXPECTED_ROWS = 64  # numbers of rows up to which the layout is meant to help


class PrepackedWeight:
    """A weight (out, in) in oneDNN's layout. `min_rows`: the number of rows from which on it is faster."""

    def __init__(self, weight: Tensor, min_rows: int) -> None:
        self.min_rows = min_rows
        self._weight = reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(rows, in) to (rows, out), without gradients."""
        return linear_reordered(x, self._weight, bias)

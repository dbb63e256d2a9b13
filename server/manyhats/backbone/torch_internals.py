"""Undocumented parts of torch that the backbone uses, which may change with any release.

Each function says why no public one will do. `tests/backbone/test_internals.py` names the one that broke.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reorder_linear_weight(weight: Tensor, rows: int) -> Tensor:
    """A weight (out, in) in the layout in which oneDNN multiplies about `rows` rows with it.

    torch's public `linear` reorders the weight at every call; only its own compiler keeps the reordered one. Raises
    AttributeError or RuntimeError where this torch has no such operator.
    """
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return reordered


def linear_reordered(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, in) times a weight of `reorder_linear_weight`, plus the bias (out,): (rows, out), without gradients.

    No public operator takes a weight in that layout.
    """
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def reduce_segments(values: Tensor, lengths: Tensor, how: str) -> Tensor:
    """Sum or maximum over consecutive runs of `lengths` rows: (rows, width) to (runs, width).

    A prototype, which torch leaves out of its reference. The public `scatter_reduce` needs an index as large as the
    values, and nested tensors cannot be reduced so on every device. Without `unsafe` the host waits for the device, to
    compare the lengths with the rows.
    """
    reduced: Tensor = torch.segment_reduce(values, how, lengths=lengths, axis=0, unsafe=True)
    return reduced

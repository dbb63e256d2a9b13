"""The operations in plain torch: for any device, with gradients, and as the reference for other backends' tests.

Each call loops over the segments, because torch has no operation for matrices of different sizes at different
addresses. Low-rank pairs with few rows each are batched instead (`kernels.padded`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.kernels.activations import activation
from manyhats.kernels.base import (
    Bits,
    Captures,
    FusedRows,
    JoinedLowRank,
    LowRank,
    RmsNorm,
    RowAttention,
    Rows,
    ScaleAdd,
    Sparse,
    Stage,
    Weight,
)
from manyhats.kernels.padded import add_padded
from manyhats.kernels.segments import Segments, Table


class Reference:
    """See `kernels.base.Kernels`."""

    name = "reference"
    keeps_bits = False  # unpacking bits in every batch takes 2 to 4 times as long as the linear layer itself
    keeps_sparse = False
    compiles = False
    rms_norm: RmsNorm | None = None
    row_attention: RowAttention | None = None
    fused_rows: FusedRows | None = None
    joined_low_rank: JoinedLowRank | None = None
    stage: Stage | None = None
    captures: Captures | None = None
    table_bytes = 0

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        remaining = list(segments) if row_scale is not None else add_padded(x, y, table, segments)
        for start, stop, slot in remaining:
            down, up, down_bias, up_bias, function, scale = table[slot]
            rows, out = x[start:stop], y[start:stop]
            if down_bias is None and up_bias is None and function is None and scale is None:
                # A x^T: on a CPU a product with r rows is faster than one with r columns
                low = (down @ rows.T).T
                if row_scale is not None:
                    low = low * row_scale[start:stop]
                out.addmm_(low.to(y.dtype), up.to(y.dtype))  # the dtypes differ only under autocast
                continue
            low = F.linear(rows, down, down_bias)
            if function is not None:
                low = activation(function)(low)
            more = F.linear(low, up.T, up_bias)
            if scale is not None:
                more = more * scale
            if row_scale is not None:
                more = more * row_scale[start:stop]
            out += more

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        for start, stop, slot in segments:
            gain, offset = table[slot]
            rows = y[start:stop]
            if gain is not None:
                rows *= gain
            if offset is not None:
                rows += offset

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        at_once = not torch.is_grad_enabled() and y.is_contiguous() and x.dtype == y.dtype
        for start, stop, slot in segments:
            weight, bias, outputs = table[slot]
            rows = x[start:stop]
            if outputs is not None:
                y[start:stop].index_copy_(1, outputs, F.linear(rows, weight, bias).to(y.dtype))
            elif at_once and bias is not None and weight.shape[0] == y.shape[1]:
                torch.addmm(bias, rows, weight.T, out=y[start:stop])
            else:
                y[start:stop, : weight.shape[0]] = F.linear(rows, weight, bias)

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        for start, stop, slot in segments:
            keep = unpack_bits(table[slot].bits, (base.shape[0], base.shape[1]))
            y[start:stop] = F.linear(x[start:stop], base * keep, bias)

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        for start, stop, slot in segments:
            rows, own = table[slot]
            wanted = ids[start:stop]
            if own is None:
                y[start:stop] = F.embedding(wanted, rows)
                continue
            indices = torch.searchsorted(own, wanted).clamp_(max=len(own) - 1)
            found = (own[indices] == wanted)[:, None]
            y[start:stop] = torch.where(found, rows[indices], y[start:stop])

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        width = x.shape[1]
        for start, stop, slot in segments:
            indices, values = table[slot]
            columns = torch.div(indices, width, rounding_mode="floor")
            y[start:stop].index_add_(1, columns, x[start:stop].index_select(1, indices % width) * values)


def unpack_bits(bits: Tensor, shape: tuple[int, int]) -> Tensor:
    """Unpacks bytes, the lowest bit first, row by row, to bool (out, in)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    flat = (bits[:, None] >> shifts) & 1
    return flat.view(-1)[: shape[0] * shape[1]].view(shape).bool()

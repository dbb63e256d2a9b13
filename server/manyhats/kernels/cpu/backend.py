"""The backend that calls the C library. Calls that the library does not support go to the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
from manyhats.kernels.cpu.attention import CachedRowAttention
from manyhats.kernels.cpu.fused_rows import CpuFusedRows
from manyhats.kernels.cpu.library import Library, load
from manyhats.kernels.cpu.struct_arrays import MANY_OUTPUTS, StructArrayView, StructKind, struct_array_of
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segments, Table

# The average rows of a segment up to which layers of more outputs than FEW_OUTPUTS are faster in C than torch's
# product: in bfloat16, with AMX and without. In float32 they are not.
_MOST_ROWS_AMX = 512
_MOST_ROWS_BF16 = 16


class CpuKernels:
    """See `kernels.base.Kernels`. For float32 and bfloat16, accumulating in float32, on torch's own threads.

    The reference computes calls with gradients, of other dtypes, with rows that are not contiguous, and those whose
    table has an entry that the library does not support, such as one with a rare activation. That depends on the whole
    table, so that a task's outputs do not depend on the other tasks in a batch. Raises ConfigurationError where the
    library cannot be used.
    """

    name = "cpu"
    keeps_bits = True
    keeps_sparse = True
    compiles = False
    rms_norm: RmsNorm | None = None
    stage: Stage | None = None
    captures: Captures | None = None
    joined_low_rank: JoinedLowRank | None = None
    table_bytes = 0

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or load()
        self._variant = self._library.number
        self._reference = Reference()
        self._most_rows = {torch.bfloat16: _MOST_ROWS_AMX if self._library.variant == "amx" else _MOST_ROWS_BF16}
        self.row_attention: RowAttention | None = CachedRowAttention(self._library)
        self.fused_rows: FusedRows | None = CpuFusedRows(self._library)

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        function = self._library.low_rank.get(x.dtype)
        structs = struct_array_of(table).updated(table)
        rows, width = x.shape
        out = y.shape[1]
        if (
            function is None
            or structs.kind != (x.dtype, width, out)
            or not _supported(x, y)
            or (row_scale is not None and (row_scale.dtype is not x.dtype or row_scale.shape != (rows, 1)))
        ):
            self._reference.low_rank(x, y, table, segments, row_scale)
            return
        operands = (x.data_ptr(), y.data_ptr(), rows, width, out, x.stride(0), y.stride(0))
        scale = (None, 0) if row_scale is None else (row_scale.data_ptr(), row_scale.stride(0))
        self._call("low_rank", function, operands, segments, structs, scale)

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        if y.dim() != 2:  # norms over heads, which scale the vectors of all heads alike
            self._reference.scale_add(y, table, segments)
            return
        function = self._library.scale_add.get(y.dtype)
        structs = struct_array_of(table).updated(table)
        rows, out = y.shape
        stride, step = y.stride()
        if function is None or structs.kind != (y.dtype, out) or torch.is_grad_enabled() or step != 1:
            self._reference.scale_add(y, table, segments)
            return
        self._call("scale_add", function, (y.data_ptr(), rows, out, stride), segments, structs)

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        function = self._library.linear.get(x.dtype)
        structs = struct_array_of(table).updated(table)
        rows, width = x.shape
        few: StructKind = (x.dtype, width)
        suitable = structs.kind == few or (
            structs.kinds <= {few, (*few, MANY_OUTPUTS)}
            and segments.rows <= self._most_rows.get(x.dtype, 0) * len(segments)
        )
        if function is None or not suitable or not _supported(x, y):
            self._reference.linear(x, y, table, segments)
            return
        operands = (x.data_ptr(), y.data_ptr(), rows, width, y.shape[1], x.stride(0), y.stride(0))
        self._call("linear", function, operands, segments, structs)

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        function = self._library.masked_linear.get(x.dtype)
        structs = struct_array_of(table).updated(table)
        rows, width = x.shape
        out = y.shape[1]
        if (
            function is None
            or structs.kind != ((out * width + 7) // 8,)
            or not _supported(x, y)
            or base.shape != (out, width)
            or base.dtype is not x.dtype
            or not base.is_contiguous()
            or (bias is not None and (bias.dtype is not x.dtype or not bias.is_contiguous()))
        ):
            self._reference.masked_linear(x, y, base, bias, table, segments)
            return
        operands = (x.data_ptr(), y.data_ptr(), rows, width, out, x.stride(0), y.stride(0))
        layer = (base.data_ptr(), None if bias is None else bias.data_ptr())
        self._call("masked_linear", function, operands, segments, structs, layer)

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        self._reference.lookup(ids, y, table, segments)

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        function = self._library.sparse_add.get(x.dtype)
        structs = struct_array_of(table).updated(table)
        rows, width = x.shape
        if function is None or structs.kind != (x.dtype,) or not _supported(x, y):
            self._reference.sparse_add(x, y, table, segments)
            return
        operands = (x.data_ptr(), y.data_ptr(), rows, width, y.shape[1], x.stride(0), y.stride(0))
        self._call("sparse_add", function, operands, segments, structs)

    def _call(
        self,
        name: str,
        function: Callable[..., int],
        operands: tuple[int, ...],
        segments: Segments,
        structs: StructArrayView,
        more: tuple[int | None, ...] = (),
    ) -> None:
        """Calls a function of the library: its operands, the segments, the table, and what more it takes."""
        code = function(
            self._variant,
            *operands,
            segments.host.data_ptr(),
            len(segments),
            structs.address,
            structs.slots,
            *more,
            torch.get_num_threads(),
        )
        if code:
            raise Library.failure(name, code)


def _supported(x: Tensor, y: Tensor) -> bool:
    """Whether the library can read and write the rows of x (rows, in) and y (rows, out)."""
    matching = y.dtype is x.dtype and y.shape[0] == x.shape[0] and x.stride(1) == 1 and y.stride(1) == 1
    return matching and not torch.is_grad_enabled()

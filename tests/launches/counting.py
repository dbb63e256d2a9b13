"""Kernels that count as one launch for each operation, as those for a GPU do, whatever the number of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from manyhats.kernels.base import Bits, JoinedPair, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segments, Table
from torch import Tensor

from tests.launches.device_counts import Count


class Counting:
    """See `kernels.base.Kernels`. Computes as the reference does."""

    name = "counting"
    keeps_bits = True
    keeps_sparse = True
    compiles = False
    row_attention = None
    fused_rows = None
    rms_norm = None
    stage = None
    captures = None
    table_bytes = 0

    def __init__(self) -> None:
        self.count = Count()  # whoever measures puts the pass's in its place
        self._reference = Reference()

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        with self.count.one_kernel("low_rank"):
            self._reference.low_rank(x, y, table, segments, row_scale)

    def joined_low_rank(self, x: Tensor, pairs: Sequence[JoinedPair], segments: Segments) -> None:
        with self.count.one_kernel("joined_low_rank"):
            for pair in pairs:
                self._reference.low_rank(x, pair.y, pair.table, pair.segments)

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        with self.count.one_kernel("scale_add"):
            self._reference.scale_add(y, table, segments)

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        with self.count.one_kernel("linear"):
            self._reference.linear(x, y, table, segments)

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        with self.count.one_kernel("masked_linear"):
            self._reference.masked_linear(x, y, base, bias, table, segments)

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        with self.count.one_kernel("lookup"):
            self._reference.lookup(ids, y, table, segments)

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        with self.count.one_kernel("sparse_add"):
            self._reference.sparse_add(x, y, table, segments)

"""The operations that all methods consist of. One call computes the rows of all adapters of a batch.

Each takes the rows of the batch, `segments` that say which rows belong to which slot, and a table with each slot's
entry at the site. Outputs are written in place; rows that belong to no segment are not changed.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from manyhats.kernels.segments import FixedSegments, Segments, Table


class LowRank(NamedTuple):
    """y += scale * (act(x down^T + down_bias) up + up_bias): LoRA, a bottleneck adapter, and similar."""

    down: Tensor  # (r, in)
    up: Tensor  # (r, out)
    down_bias: Tensor | None = None  # (r,)
    up_bias: Tensor | None = None  # (out,)
    activation: str | None = None  # a name of `kernels.activations`
    scale: Tensor | float | None = None  # a number, (1,) or (out,)


class ScaleAdd(NamedTuple):
    """y = y * gain + offset: IA3, a changed bias, DoRA's gains."""

    gain: Tensor | None = None  # (out,)
    offset: Tensor | None = None  # (out,)


class Weight(NamedTuple):
    """y = x weight^T + bias: a head's layer, or a weight that replaces the backbone's, in full or for some outputs."""

    weight: Tensor  # (out, in)
    bias: Tensor | None = None  # (out,)
    outputs: Tensor | None = None  # (out,) int64: their columns of y; None: its first columns


class Bits(NamedTuple):
    """y = x (base * bits)^T + bias: a binary mask over the backbone's weight (out, in), one bit for each weight."""

    bits: Tensor  # uint8, (ceil(out * in / 8),), row by row, the lowest bit first


class Sparse(NamedTuple):
    """y += x D^T with a sparse D (out, in)."""

    indices: Tensor  # (n,) int32, into the flattened (out, in), in rising order
    values: Tensor  # (n,)


class Rows(NamedTuple):
    """y = rows[ids]: a table that replaces an embedding's, or some rows of it."""

    rows: Tensor  # (n, dim)
    ids: Tensor | None = None  # (n,) int64, in rising order: the token ids of these rows; None: all


class RowAttention(Protocol):
    """Attention of single queries to rows of a cache of keys and values, of one dtype and on one device.

    `on_host`: whether it takes `rows`, `bounds` and `first` as NumPy's arrays; else as tensors on the device.
    """

    on_host: bool

    def supports(self, dtype: torch.dtype) -> bool:
        """Whether it computes in this type."""
        ...

    def __call__(
        self,
        q: Tensor,
        new: tuple[Tensor, Tensor] | None,
        cache: tuple[Tensor, Tensor],
        rows: Any,
        bounds: Any,
        first: Any,
        scaling: float,
        window: int | None = None,
    ) -> Tensor:
        """q (S, heads, dim) to (S, heads, dim).

        `cache`: keys and values (cache rows, kv_heads, dim). A sequence attends to its rows of the cache,
        `rows[bounds[i] + first[i] : bounds[i + 1]]`, and of them to the last `window` alone; None: to all. `new`: the
        key and the value of each sequence (S, kv_heads, dim), written into the last of these rows before; None: they
        are there. `scaling`: of the products. The indices are int64.
        """
        ...


class JoinedPair(NamedTuple):
    """What `JoinedLowRank` computes at one of its sites. `segments`: that have an entry in the table."""

    y: Tensor  # (rows, out)
    table: Table[LowRank]
    segments: Segments


class JoinedLowRank(Protocol):
    """Low-rank pairs at several sites that read the same rows, in one call."""

    def __call__(self, x: Tensor, pairs: Sequence[JoinedPair], segments: Segments) -> None:
        """`Kernels.low_rank` for x (rows, in) and each pair. `segments`: all of theirs, which not every table has an
        entry for."""
        ...


class FusedRows(Protocol):
    """What is several operations in torch, in one call. Without gradients; all tensors of a call are of one dtype and
    on one device. Rows outside the segments, whose slots do not matter, are undefined."""

    def supports(self, dtype: torch.dtype, activation: str | None = None) -> bool:
        """Whether it computes in this type, and this activation."""
        ...

    def add_norm(
        self, f: Tensor, x: Tensor, gain: Tensor | None, offset: Tensor | None, epsilon: float, segments: Segments
    ) -> Tensor:
        """The layer norm of f + x, both (rows, width), multiplied by the gain (width,), plus the offset (width,)."""
        ...

    def weigh_members(self, low: Tensor, members: int, activation: str | None, segments: Segments) -> Tensor:
        """low (rows, 2 * n * r + n) to (rows, n * r + n): w_m a_m for n members, and w_m.

        a_m = act(low[m r : m r + r]), w = softmax over the members of a_m . low[n r + m r : n r + m r + r]
        + low[2 n r + m].
        """
        ...


class RmsNorm(Protocol):
    """A norm by the root of the mean square, in one call. Without gradients."""

    def __call__(self, x: Tensor, gain: Tensor, epsilon: float) -> Tensor | None:
        """gain x / sqrt(mean(x^2) + epsilon), of x (..., width) and the gain (width,), rounded to their type before the
        gain and after it; None where it does not compute such tensors."""
        ...


class Staging(Protocol):
    """Arrays of one pass that go to the device together; see `backbone.staging.StagingBuffer`."""

    def put(self, name: str, array: ArrayLike) -> None: ...

    def __getitem__(self, name: str) -> Tensor: ...


class Stage(Protocol):
    """Puts what calls of a pass need on the device into its staging buffer, before that is committed.

    Without it each call copies what it needs by itself. `segments`: of the pass; `tables`: that it finds entries in.
    """

    def __call__(
        self, segments: Sequence[Segments], tables: Collection[Table[Any]], staging: Staging, device: torch.device
    ) -> None: ...


class Captures(Protocol):
    """What a backend adds so that its launches can be captured, and launched again for other segments and entries."""

    def tiles(self, segments: Segments, rows: int) -> NDArray[np.int32]:
        """Segments of a batch of so many rows as the captured launches read them, in a shape that depends on `rows`
        alone."""
        ...

    def fixed(self, tiles: Tensor) -> FixedSegments:
        """The segments that stand in `tiles`, on the device, whenever what is captured with them is launched."""
        ...

    def update(self, tables: Collection[Table[Any]], staging: Staging, device: torch.device) -> Hashable:
        """Puts what has changed in the tables' entries into a staging buffer, for `flush`. Returns what captured
        launches depend on besides: where it differs, they must be captured again."""
        ...

    def flush(self) -> None:
        """Writes what has changed to the device, once the staging buffer has been committed."""
        ...


class Kernels(Protocol):
    """A backend. All tensors of a call are on one device and, except for indices and bits, of one dtype."""

    name: str
    keeps_bits: bool  # whether slots hold masks as bits (`masked_linear`), or as dense weights (`linear`)
    keeps_sparse: bool  # whether slots hold sparse differences (`sparse_add`), or dense weights (`linear`)
    compiles: bool  # whether the first call of a kind takes long, as its program is compiled; see `engine.warm_up`
    row_attention: RowAttention | None  # None: torch's attention, over keys and values that are gathered
    fused_rows: FusedRows | None  # None: torch's operations
    rms_norm: RmsNorm | None  # None: torch's operations
    joined_low_rank: JoinedLowRank | None  # None: one call for each site
    stage: Stage | None  # None: calls need nothing on the device besides their tensors
    captures: Captures | None  # None: launches cannot be captured

    @property
    def table_bytes(self) -> int:
        """Bytes that tables' entries take on the device, beside the tensors. Any thread may ask."""
        ...

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        """Adds the pairs' outputs for x (rows, in) to y (rows, out), each row multiplied by `row_scale` (rows, 1)."""
        ...

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        """Multiplies rows of y (rows, ..., width) by the gain, and adds the offset."""
        ...

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        """Writes the layers' outputs for x (rows, in) into y (rows, out or more). Slots may differ in `out`."""
        ...

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        """Writes the outputs of the masked base weight (out, in) for x (rows, in) into y (rows, out)."""
        ...

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        """Writes embeddings into those rows of y (rows, dim) whose token id, in `ids` (rows,), the slot's entry has."""
        ...

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        """Adds the sparse differences' outputs for x (rows, in) to y (rows, out)."""
        ...

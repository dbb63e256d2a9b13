"""The operations that all methods are made of: one call does the rows of all tasks of a batch.

Each takes the batch's rows, `segments` that say which rows belong to which slot, and a table that says what each slot
has at the site. Outputs are written in place; rows that belong to no segment stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from manyhats.kernels.segments import Segments, Table


class LowRank(NamedTuple):
    """y += scale * (act(x down^T + down_bias) up + up_bias): LoRA's pair, a bottleneck adapter, and their kin."""

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
    """y = x weight^T + bias: a head's layer, a weight in place of the backbone's, or some of its outputs."""

    weight: Tensor  # (out, in)
    bias: Tensor | None = None  # (out,)
    outputs: Tensor | None = None  # (out,) int64: where they stand in y; None: its first


class Bits(NamedTuple):
    """y = x (base * bits)^T + bias: a mask over the backbone's own weight (out, in), a bit a weight, row by row."""

    bits: Tensor  # uint8, (ceil(out * in / 8),), the first weight in the lowest bit


class Sparse(NamedTuple):
    """y += x D^T where D (out, in) is zero but for some values."""

    indices: Tensor  # (n,) into the flattened (out, in), rising
    values: Tensor  # (n,)


class Rows(NamedTuple):
    """y = rows[ids]: an embedding's own table, or some rows of it."""

    rows: Tensor  # (n, dim)
    ids: Tensor | None = None  # (n,) int64, rising: which rows of the table these are; None: all of them


class Kernels(Protocol):
    """One backend. All tensors of a call lie on one device and, but for indices and bits, have one dtype."""

    name: str
    keeps_bits: bool  # whether masks stay bits in a slot (`masked_linear`), or become dense weights (`linear`)
    keeps_sparse: bool  # whether sparse differences stay sparse (`sparse_add`), or become dense weights (`linear`)

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        """Adds to y (rows, out) what the pairs make of x (rows, in). `row_scale`: (rows, 1), weighs what is added."""
        ...

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        """Scales and shifts rows of y (rows, width)."""
        ...

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        """Writes outputs of y (rows, at least out) from x (rows, in); each slot may have an `out` of its own."""
        ...

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        """Writes y (rows, out) from x (rows, in) through the masked base (out, in)."""
        ...

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        """Writes rows of y (rows, dim) whose id, of `ids` (rows,), the slot's table has."""
        ...

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        """Adds to y (rows, out) what the sparse differences make of x (rows, in)."""
        ...

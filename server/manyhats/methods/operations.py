"""The operations of a bound component, one object for each site: which kernel they call, and with which tensors.

Operations of one `kind` at a site are computed in one call for all adapters of a batch. `columns` are an operation's
entries, one for each of the kind's tables, which the call finds by slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from manyhats.kernels.base import Bits, Kernels, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.segments import Segments, Table

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch

Tables = Mapping[str, Table[Any]]


@dataclass(frozen=True, slots=True)
class OperationKind:
    """What operations must have in common to be computed in one call. `columns`: the names of their tables; `run`: what
    computes them, with all that must be equal besides, such as a config's flags: of a linear layer's output an
    `OutputRun`, at a residual site a `methods.residual.ResidualRun`, of the whole states a `StatesRun`. None: what acts
    there computes them itself."""

    name: str
    columns: tuple[str, ...]
    run: Any = None


class Operation(Protocol):
    """One operation of an adapter at one site."""

    @property
    def kind(self) -> OperationKind:
        """Operations of one kind are computed in one call."""
        ...

    @property
    def columns(self) -> tuple[Any, ...]:
        """Its entries, one for each of the kind's tables."""
        ...


class OutputRun(Protocol):
    """Computes operations on the output of a linear layer."""

    def __call__(self, kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        """Computes all segments. `x`: (rows, in), the layer's input; `y`: (rows, out), its output, changed in place."""
        ...


class StatesPass(NamedTuple):
    """The inputs of a `StatesRun`. `states`: (rows, hidden); `sequences`: of each segment, as indices in the batch."""

    kernels: Kernels
    states: Tensor
    tables: Tables
    segments: Segments
    sequences: Sequence[slice]
    batch: PackedBatch


class StatesRun(Protocol):
    """Computes operations on the residual stream as a whole, of all segments together."""

    def __call__(self, site: StatesPass) -> Tensor:
        """The states (rows, hidden), with changes in the segments' rows only."""
        ...


def _add_low_rank(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    kernels.low_rank(x, y, tables["pair"], segments)


@dataclass(frozen=True, slots=True)
class AddLowRank:
    """y += the low-rank pair's output for x."""

    pair: LowRank
    kind: ClassVar = OperationKind("low_rank", ("pair",), _add_low_rank)

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.pair,)


def _add_gated_low_rank(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    kernels.low_rank(x, y, tables["pair"], segments, gate_rows(kernels, x, tables["gate"], segments))


@dataclass(frozen=True, slots=True)
class AddGatedLowRank:
    """The same, scaled for each sequence by the mean of its gate: weight (1, in), bias (1,)."""

    pair: LowRank
    gate: Weight
    kind: ClassVar = OperationKind("gated low_rank", ("pair", "gate"), _add_gated_low_rank)

    @property
    def columns(self) -> tuple[Any, ...]:
        return self.pair, self.gate


def _scale_output(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    kernels.scale_add(y, tables["values"], segments)


@dataclass(frozen=True, slots=True)
class ScaleOutput:
    """y = y * gain + offset."""

    values: ScaleAdd
    kind: ClassVar = OperationKind("scale_add", ("values",), _scale_output)

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)


def _set_outputs(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    kernels.linear(x, y, tables["layer"], segments)


@dataclass(frozen=True, slots=True)
class SetOutputs:
    """Replaces some outputs, computed from rows of a weight. `ids`: (n,), the outputs; `rows`: (n, in)."""

    ids: Tensor
    rows: Tensor
    kind: ClassVar = OperationKind("set outputs", ("layer",), _set_outputs)

    @property
    def columns(self) -> tuple[Any, ...]:
        return (Weight(self.rows, None, self.ids),)


def _add_sparse(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
    kernels.sparse_add(x, y, tables["difference"], segments)


@dataclass(frozen=True, slots=True)
class AddSparse:
    """y += the output of a sparse difference of the weight for x."""

    difference: Sparse
    kind: ClassVar = OperationKind("sparse_add", ("difference",), _add_sparse)

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.difference,)


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Replaces rows of an embedding."""

    rows: Rows
    kind: ClassVar = OperationKind("lookup", ("rows",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.rows,)


@dataclass(frozen=True, slots=True)
class ScaleInput:
    """x = x * gain, before the linear layer."""

    values: ScaleAdd
    kind: ClassVar = OperationKind("scale input", ("values",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)


@dataclass(frozen=True, slots=True)
class OwnWeight:
    """Replaces a linear layer's weight."""

    layer: Weight
    kind: ClassVar = OperationKind("linear", ("layer",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.layer,)


@dataclass(frozen=True, slots=True)
class OwnMask:
    """A binary mask over a linear layer's weight."""

    bits: Bits
    kind: ClassVar = OperationKind("masked_linear", ("bits",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.bits,)


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """A linear layer of a head."""

    layer: Weight
    kind: ClassVar = OperationKind("head", ("layer",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.layer,)


@dataclass(frozen=True, slots=True)
class OwnNorm:
    """Replaces a norm's gain and offset, in float32."""

    values: ScaleAdd
    kind: ClassVar = OperationKind("norm", ("values",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)


@dataclass(frozen=True, slots=True)
class PrefixRows:
    """Keys and values before every sequence's own, (length, kv_heads, head_dim) each, the same for all sequences."""

    keys: Tensor
    values: Tensor
    kind: ClassVar = OperationKind("prefix rows", ("rows",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return ((self.keys, self.values),)

    def __call__(self, hidden: Tensor, slices: Any) -> tuple[Tensor, Tensor]:
        """See `methods.base.KeyValueStep`."""
        return self.keys, self.values


@dataclass(frozen=True, slots=True)
class Step:
    """An operation without a kernel, which is called for one segment after another. `act`: see `methods.base`."""

    act: Any
    kind: ClassVar = OperationKind("step", ("act",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.act,)


def as_operation(act: Any) -> Operation:
    """`act` itself where it is an operation, else the step that calls it."""
    operation: Operation = act if isinstance(getattr(act, "kind", None), OperationKind) else Step(act)
    return operation


def bytes_of(operation: Operation) -> int:
    """Bytes of the tensors in its entries."""
    return sum(value.nbytes for column in operation.columns for value in column if isinstance(value, Tensor))


def gate_means(logits: Tensor, sequences: Sequence[slice]) -> Tensor:
    """The mean of sigmoid(logits) over each sequence's rows: (rows, 1) to (sequences,).

    UniPELT's gate (Mao et al. 2022, section 3.1). `logits`: the output of the gate's linear layer.
    """
    gates = torch.sigmoid(logits)
    return torch.stack([gates[rows].mean() for rows in sequences])


def gate_rows(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """The mean gate of each row's sequence, for x (rows, width): (rows, 1). Rows outside the segments are undefined.

    `table`: each slot's gate, weight (1, width) and bias (1,).
    """
    logits = x.new_empty(len(x), 1)
    kernels.linear(x, logits, table, segments)
    sequences = [slice(start, stop) for ranges in segments.sequence_ranges for start, stop in ranges]
    means, lengths = gate_means(logits, sequences), [rows.stop - rows.start for rows in sequences]
    flat = torch.cat([mean.expand(length) for mean, length in zip(means, lengths, strict=True)])[:, None]
    if len(flat) == len(x):
        return flat
    gates = x.new_empty(len(x), 1)
    first = 0
    for rows in segments.runs:
        gates[rows] = flat[first : first + rows.stop - rows.start]
        first += rows.stop - rows.start
    return gates

"""What a method does at a site, as operations that the kernels have: one object for each site of a bound component.

All adapters of a batch whose operations at a site are of one `kind` are done in one call. `columns` are what the call
finds by slot, each in a table of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from manyhats.kernels.base import Bits, Kernels, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.segments import Segments, Table

Tables = Mapping[str, Table[Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Operations that are done together. `columns`: the tables that they stand in; `detail`: what else must be equal,
    like a config's flags; `run`: at a residual site, what does them (see `methods.residual.ResidualRun`)."""

    name: str
    columns: tuple[str, ...]
    detail: Hashable = None
    run: Any = None


class Operation(Protocol):
    """What stands in a slot at one site."""

    @property
    def kind(self) -> Kind:
        """Operations of one kind are done together."""
        ...

    @property
    def columns(self) -> tuple[Any, ...]:
        """What is found by slot, one for each of the kind's tables."""
        ...


class OutputOperation(Operation, Protocol):
    """Changes the output of a linear layer."""

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        """For all segments at once. `x`: (rows, in), what the layer was given; `y`: (rows, out), changed in place."""
        ...


@dataclass(frozen=True, slots=True)
class AddLowRank:
    """y += what the pair makes of x."""

    pair: LowRank
    kind: ClassVar = Kind("low_rank", ("pair",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.pair,)

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        kernels.low_rank(x, y, tables["pair"], segments)


@dataclass(frozen=True, slots=True)
class AddGatedLowRank:
    """The same, weighed for each sequence by a gate: weight (1, in), bias (1,)."""

    pair: LowRank
    gate: Weight
    kind: ClassVar = Kind("gated low_rank", ("pair", "gate"))

    @property
    def columns(self) -> tuple[Any, ...]:
        return self.pair, self.gate

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        kernels.low_rank(x, y, tables["pair"], segments, gate_rows(kernels, x, tables["gate"], segments))


@dataclass(frozen=True, slots=True)
class ScaleOutput:
    """y = y * gain + offset."""

    values: ScaleAdd
    kind: ClassVar = Kind("scale_add", ("values",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        kernels.scale_add(y, tables["values"], segments)


@dataclass(frozen=True, slots=True)
class SetOutputs:
    """Some outputs through rows of a weight of their own. ids: (n,), rows: (n, in)."""

    ids: Tensor
    rows: Tensor
    kind: ClassVar = Kind("set outputs", ("layer",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (Weight(self.rows, None, self.ids),)

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        kernels.linear(x, y, tables["layer"], segments)


@dataclass(frozen=True, slots=True)
class AddSparse:
    """y += what a sparse difference of the weight makes of x."""

    difference: Sparse
    kind: ClassVar = Kind("sparse_add", ("difference",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.difference,)

    @staticmethod
    def run(kernels: Kernels, x: Tensor, y: Tensor, tables: Tables, segments: Segments) -> None:
        kernels.sparse_add(x, y, tables["difference"], segments)


OUTPUT_OPERATIONS: dict[Kind, type[OutputOperation]] = {
    operation.kind: operation for operation in (AddLowRank, AddGatedLowRank, ScaleOutput, SetOutputs, AddSparse)
}


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Rows in place of an embedding's."""

    rows: Rows
    kind: ClassVar = Kind("lookup", ("rows",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.rows,)


@dataclass(frozen=True, slots=True)
class ScaleInput:
    """x = x * gain, before the layer."""

    values: ScaleAdd
    kind: ClassVar = Kind("scale input", ("values",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)


@dataclass(frozen=True, slots=True)
class OwnWeight:
    """A weight in place of the layer's."""

    layer: Weight
    kind: ClassVar = Kind("linear", ("layer",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.layer,)


@dataclass(frozen=True, slots=True)
class OwnMask:
    """A mask over the layer's weight."""

    bits: Bits
    kind: ClassVar = Kind("masked_linear", ("bits",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.bits,)


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """A linear layer of a head."""

    layer: Weight
    kind: ClassVar = Kind("head", ("layer",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.layer,)


@dataclass(frozen=True, slots=True)
class OwnNorm:
    """Gain and offset in place of a norm's, in float32."""

    values: ScaleAdd
    kind: ClassVar = Kind("norm", ("values",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.values,)


@dataclass(frozen=True, slots=True)
class PrefixRows:
    """Keys and values before every sequence's own, (length, kv_heads, head_dim) each, the same for all sequences."""

    keys: Tensor
    values: Tensor
    kind: ClassVar = Kind("prefix rows", ("rows",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return ((self.keys, self.values),)

    def __call__(self, hidden: Tensor, spans: Any) -> tuple[Tensor, Tensor]:
        """See `methods.base.KeyValueStep`."""
        return self.keys, self.values


@dataclass(frozen=True, slots=True)
class Step:
    """What has no kernel: something that acts on one segment after another. `act`: see `methods.base`."""

    act: Any
    kind: ClassVar = Kind("step", ("act",))

    @property
    def columns(self) -> tuple[Any, ...]:
        return (self.act,)


def bytes_of(operation: Operation) -> int:
    """Of the tensors that it brings."""
    return sum(value.nbytes for column in operation.columns for value in column if isinstance(value, Tensor))


def _gate_means(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """mean over each sequence's rows of sigmoid(gate(x)): (rows, width) to (sequences of the segments,).

    Mao et al. 2022, section 3.1.
    """
    opened = x.new_empty(len(x), 1)
    kernels.linear(x, opened, table, segments)
    opened = torch.sigmoid(opened)
    return torch.stack([opened[start:stop].mean() for spans in segments.spans for start, stop in spans])


def gate_rows(kernels: Kernels, x: Tensor, table: Table[Weight], segments: Segments) -> Tensor:
    """That mean in every row of its sequence: (rows, width) to (rows, 1). Rows of no segment have no meaning."""
    means = _gate_means(kernels, x, table, segments)
    lengths = [stop - start for spans in segments.spans for start, stop in spans]
    flat = torch.cat([mean.expand(length) for mean, length in zip(means, lengths, strict=True)])[:, None]
    if len(flat) == len(x):
        return flat
    gates = x.new_empty(len(x), 1)
    done = 0
    for rows in segments.runs:
        gates[rows] = flat[done : done + rows.stop - rows.start]
        done += rows.stop - rows.start
    return gates

"""The entries of a table as C structs: one struct for each slot, in one array that grows.

The layouts are those of the structs in call.h.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.kernels.activations import NUMBERS
from manyhats.kernels.base import Bits, LowRank, ScaleAdd, Sparse, Weight
from manyhats.kernels.segments import Table

FEW_OUTPUTS = 32  # of a linear layer: layers of more are computed in another way; see linear.h

_LOW_RANK = np.dtype(
    [
        ("present", "i4"),
        ("rank", "i4"),
        ("down", "u8"),
        ("up", "u8"),
        ("down_bias", "u8"),
        ("up_bias", "u8"),
        ("scale", "u8"),
        ("factor", "f4"),
        ("activation", "i4"),
        ("scale_step", "i4"),
        ("unused", "i4"),
    ]
)
_SCALE_ADD = np.dtype([("present", "i4"), ("unused", "i4"), ("gain", "u8"), ("offset", "u8")])
_LINEAR = np.dtype([("present", "i4"), ("out", "i4"), ("weight", "u8"), ("bias", "u8")])
_SPARSE = np.dtype([("present", "i4"), ("count", "i4"), ("indices", "u8"), ("values", "u8")])
_MASK = np.dtype([("present", "i4"), ("unused", "i4"), ("bits", "u8")])
_lock = threading.Lock()
_INITIAL_SLOTS = 8  # of a new array; its size doubles when it is full

# What all structs of an array must have in common for one call, such as dtype and sizes. Where they differ, or an entry
# is not supported, the reference computes the call.
StructKind = tuple[Hashable, ...]
_UNSUPPORTED: StructKind = ("not supported",)
MANY_OUTPUTS = "many outputs"  # marks the kinds of linear layers of more than FEW_OUTPUTS


class StructArrayView(NamedTuple):
    """A version of the array. `kinds`: of its structs; `kind`: of all; None where they differ or there are none."""

    array: Any
    address: int
    slots: int
    kind: StructKind | None
    kinds: frozenset[StructKind] = frozenset()


class StructArray:
    """The structs of one table. An update writes only the slots that changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0  # of the table, as of the last update
        self._kinds: dict[int, StructKind] = {}
        self._counts: Counter[StructKind] = Counter()
        self._view = StructArrayView(None, 0, 0, None)

    def updated(self, table: Table[Any]) -> StructArrayView:
        """The array, after an update with the table's current entries."""
        if self._version != table.version:
            with self._lock:
                version = table.version
                self._update(table)
                self._version = version
        return self._view

    def _update(self, table: Table[Any]) -> None:
        array = self._view.array
        while table.changed_slots:
            slot = table.changed_slots.pop()
            entry = table.entries[slot]
            self._remove(slot)
            if entry is None:
                if array is not None and slot < len(array):
                    array[slot]["present"] = 0
                continue
            layout, kind, values = _struct(entry)
            if array is None:
                array = np.zeros(_INITIAL_SLOTS, layout)
            if slot >= len(array):
                grown = np.zeros(max(2 * len(array), slot + 1), array.dtype)
                grown[: len(array)] = array
                array = grown
            array[slot] = values
            self._kinds[slot] = kind
            self._counts[kind] += 1
        shared = next(iter(self._counts)) if len(self._counts) == 1 else None
        if array is not None:
            self._view = StructArrayView(array, array.ctypes.data, len(array), shared, frozenset(self._counts))

    def _remove(self, slot: int) -> None:
        kind = self._kinds.pop(slot, None)
        if kind is not None:
            self._counts[kind] -= 1
            if not self._counts[kind]:
                del self._counts[kind]


def struct_array_of(table: Table[Any]) -> StructArray:
    """The table's struct array, which is stored with the table."""
    if table.struct_array is None:
        with _lock:
            if table.struct_array is None:
                table.struct_array = StructArray()
    struct_array: StructArray = table.struct_array
    return struct_array


def _struct(entry: LowRank | ScaleAdd | Sparse | Weight | Bits) -> tuple[np.dtype[Any], StructKind, tuple[Any, ...]]:
    """An entry's layout, kind and values. The addresses stay valid while the entry, which holds the tensors, is in its
    table."""
    if isinstance(entry, LowRank):
        return _LOW_RANK, *_low_rank(entry)
    if isinstance(entry, ScaleAdd):
        return _SCALE_ADD, *_scale_add(entry)
    if isinstance(entry, Sparse):
        return _SPARSE, *_sparse(entry)
    if isinstance(entry, Bits):
        return _MASK, *_mask(entry)
    return _LINEAR, *_linear(entry)


def _low_rank(entry: LowRank) -> tuple[StructKind, tuple[Any, ...]]:
    down, up, down_bias, up_bias, activation, scale = entry
    rank, width = down.shape
    out = up.shape[1]
    number = 0 if activation is None else NUMBERS.get(activation.lower())
    factor, scale_step, scales = 1.0, 0, None
    if isinstance(scale, Tensor):
        scales, scale_step = scale, int(scale.numel() > 1)
    elif scale is not None:
        factor = float(scale)
    supported = (
        number is not None
        and len(up) == rank
        and _compatible(down.dtype, down, up, down_bias, up_bias, scales)
        and (down_bias is None or down_bias.shape == (rank,))
        and (up_bias is None or up_bias.shape == (out,))
        and (scales is None or scales.shape in ((1,), (out,)))
    )
    kind: StructKind = (down.dtype, width, out) if supported else _UNSUPPORTED
    addresses = (_address(down), _address(up), _address(down_bias), _address(up_bias), _address(scales))
    return kind, (1, rank, *addresses, factor, number or 0, scale_step, 0)


def _scale_add(entry: ScaleAdd) -> tuple[StructKind, tuple[Any, ...]]:
    gain, offset = entry
    one = gain if gain is not None else offset
    supported = one is not None and one.dim() == 1 and _compatible(one.dtype, gain, offset)
    supported = supported and all(other is None or other.shape == one.shape for other in entry)  # type: ignore[union-attr]
    kind: StructKind = (one.dtype, len(one)) if supported and one is not None else _UNSUPPORTED
    return kind, (1, 0, _address(gain), _address(offset))


def _linear(entry: Weight) -> tuple[StructKind, tuple[Any, ...]]:
    weight, bias, outputs = entry
    out, width = weight.shape
    supported = outputs is None and _compatible(weight.dtype, weight, bias) and (bias is None or bias.shape == (out,))
    kind: StructKind = (weight.dtype, width) if out <= FEW_OUTPUTS else (weight.dtype, width, MANY_OUTPUTS)
    return kind if supported else _UNSUPPORTED, (1, out, _address(weight), _address(bias))


def _sparse(entry: Sparse) -> tuple[StructKind, tuple[Any, ...]]:
    indices, values = entry
    supported = (
        values.dim() == 1
        and indices.shape == values.shape
        and _compatible(values.dtype, values)
        and _compatible(torch.int32, indices)
    )
    kind: StructKind = (values.dtype,) if supported else _UNSUPPORTED
    return kind, (1, len(values), _address(indices), _address(values))


def _mask(entry: Bits) -> tuple[StructKind, tuple[Any, ...]]:
    bits = entry.bits
    supported = bits.dim() == 1 and _compatible(torch.uint8, bits)
    return (len(bits),) if supported else _UNSUPPORTED, (1, 0, _address(bits))


def _compatible(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(t is None or (t.is_cpu and t.dtype == dtype and t.is_contiguous()) for t in tensors)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

"""A table's entries as the C library reads them: one struct a slot, in one array that grows.

The layouts are those of the structs in kernels.c.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.kernels.base import LowRank, ScaleAdd, Weight
from manyhats.kernels.segments import Table

# By the names that adapter files use, in lower case (transformers' ACT2FN): the numbers in activations.h.
ACTIVATIONS = {
    "linear": 0,
    "relu": 1,
    "gelu": 2,
    "gelu_python": 2,
    "gelu_new": 3,
    "gelu_fast": 3,
    "gelu_accurate": 3,
    "gelu_pytorch_tanh": 3,
    "gelu_python_tanh": 3,
    "tanh": 4,
    "silu": 5,
    "swish": 5,
    "sigmoid": 6,
    "quick_gelu": 7,
    "leaky_relu": 8,
    "leakyrelu": 8,
    "relu2": 9,
    "relu6": 10,
    "gelu_10": 11,
    "mish": 12,
    "hardswish": 13,
    "laplace": 14,
}
MOST_OUTPUTS = 32  # of a layer that is done here: with more, torch's own product is faster

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
_lock = threading.Lock()
_FIRST = 8  # slots of a fresh array; doubled as it fills

# What all slots of a table must share for one call to do them; for a kind that no call fits, the reference does all.
Kind = tuple[Hashable, ...]
_UNFIT: Kind = ("not for C",)


class Filled(NamedTuple):
    """The array of one moment. `kind`: what all its slots share, None where they differ or there are none."""

    array: Any
    address: int
    slots: int
    kind: Kind | None


class Columns:
    """The structs of one table. Only the slots that changed are filled again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0  # the table's, up to which all has been filled
        self._kinds: dict[int, Kind] = {}
        self._counts: Counter[Kind] = Counter()
        self._filled = Filled(None, 0, 0, None)

    def filled(self, table: Table[Any]) -> Filled:
        """The structs with all that stands in the table now."""
        if self._version != table.version:
            with self._lock:
                version = table.version
                self._refresh(table)
                self._version = version
        return self._filled

    def _refresh(self, table: Table[Any]) -> None:
        array = self._filled.array
        while table.changed:
            slot = table.changed.pop()
            entry = table.entries[slot]
            self._forget(slot)
            if entry is None:
                if array is not None and slot < len(array):
                    array[slot]["present"] = 0
                continue
            layout, kind, values = _struct(entry)
            if array is None:
                array = np.zeros(_FIRST, layout)
            if slot >= len(array):
                grown = np.zeros(max(2 * len(array), slot + 1), array.dtype)
                grown[: len(array)] = array
                array = grown
            array[slot] = values
            self._kinds[slot] = kind
            self._counts[kind] += 1
        shared = next(iter(self._counts)) if len(self._counts) == 1 else None
        if array is not None:
            self._filled = Filled(array, array.ctypes.data, len(array), shared)

    def _forget(self, slot: int) -> None:
        kind = self._kinds.pop(slot, None)
        if kind is not None:
            self._counts[kind] -= 1
            if not self._counts[kind]:
                del self._counts[kind]


def columns_of(table: Table[Any]) -> Columns:
    """The table's columns, which it keeps."""
    if table.columns is None:
        with _lock:
            if table.columns is None:
                table.columns = Columns()
    columns: Columns = table.columns
    return columns


def _struct(entry: LowRank | ScaleAdd | Weight) -> tuple[np.dtype[Any], Kind, tuple[Any, ...]]:
    """An entry's layout, kind and values. The entry keeps its tensors alive for as long as it stands in its table."""
    if isinstance(entry, LowRank):
        return _LOW_RANK, *_low_rank(entry)
    if isinstance(entry, ScaleAdd):
        return _SCALE_ADD, *_scale_add(entry)
    return _LINEAR, *_linear(entry)


def _low_rank(entry: LowRank) -> tuple[Kind, tuple[Any, ...]]:
    down, up, down_bias, up_bias, activation, scale = entry
    rank, width = down.shape
    out = up.shape[1]
    number = 0 if activation is None else ACTIVATIONS.get(activation.lower())
    factor, step, scales = 1.0, 0, None
    if isinstance(scale, Tensor):
        scales, step = scale, int(scale.numel() > 1)
    elif scale is not None:
        factor = float(scale)
    fits = (
        number is not None
        and len(up) == rank
        and _fit(down.dtype, down, up, down_bias, up_bias, scales)
        and (down_bias is None or down_bias.shape == (rank,))
        and (up_bias is None or up_bias.shape == (out,))
        and (scales is None or scales.shape in ((1,), (out,)))
    )
    kind: Kind = (down.dtype, width, out) if fits else _UNFIT
    addresses = (_address(down), _address(up), _address(down_bias), _address(up_bias), _address(scales))
    return kind, (1, rank, *addresses, factor, number or 0, step, 0)


def _scale_add(entry: ScaleAdd) -> tuple[Kind, tuple[Any, ...]]:
    gain, offset = entry
    one = gain if gain is not None else offset
    fits = one is not None and one.dim() == 1 and _fit(one.dtype, gain, offset)
    fits = fits and all(other is None or other.shape == one.shape for other in entry)  # type: ignore[union-attr]
    kind: Kind = (one.dtype, len(one)) if fits and one is not None else _UNFIT
    return kind, (1, 0, _address(gain), _address(offset))


def _linear(entry: Weight) -> tuple[Kind, tuple[Any, ...]]:
    weight, bias, outputs = entry
    out, width = weight.shape
    fits = (
        outputs is None
        and out <= MOST_OUTPUTS
        and _fit(weight.dtype, weight, bias)
        and (bias is None or bias.shape == (out,))
    )
    kind: Kind = (weight.dtype, width) if fits else _UNFIT
    return kind, (1, out, _address(weight), _address(bias))


def _fit(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(t is None or (t.is_cpu and t.dtype == dtype and t.is_contiguous()) for t in tensors)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

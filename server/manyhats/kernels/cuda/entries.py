"""The entries of tables as the programs read them: eight numbers of 64 bits for each, among them addresses."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.kernels.activations import NUMBERS
from manyhats.kernels.base import Bits, LowRank, Rows, ScaleAdd, Sparse, Weight

WORDS = 8  # of a struct
ABSENT = (0,) * WORDS  # a slot without an entry: its tiles do nothing
_SCALE_STEP = 256  # in a low-rank pair's flags, beside the activation's number

Entry = LowRank | ScaleAdd | Weight | Bits | Sparse | Rows

# What all entries of a table must have in common with each other and with the operands of a call: the operation, the
# device, the type, sizes. Where they differ, or an entry is not supported, the reference computes the call.
Kind = tuple[Hashable, ...]
UNSUPPORTED: Kind = ("not supported",)
_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


class Packed(NamedTuple):
    """`words`: the struct. `size`: the rank or the number of outputs, which decides how many tiles a row has.
    `aligned`: whether its matrices begin at multiples of 16 bytes."""

    kind: Kind
    words: tuple[int, ...]
    size: int = 0
    aligned: bool = True


def packed(entry: Entry | object) -> Packed:
    """An entry's struct. Entries of other operations, such as a prefix, are not supported. The addresses stay valid
    while the entry, which holds the tensors, is in its table."""
    match entry:
        case LowRank():
            return _low_rank(entry)
        case ScaleAdd():
            return _scale_add(entry)
        case Weight():
            return _linear(entry)
        case Bits():
            return _masked_linear(entry)
        case Sparse():
            return _sparse_add(entry)
        case Rows():
            return _lookup(entry)
        case _:
            return Packed(UNSUPPORTED, ABSENT)


def low_rank_kind(x: Tensor, y: Tensor) -> Kind:
    return "low_rank", x.device, x.dtype, x.shape[1], y.shape[1]


def scale_add_kind(y: Tensor) -> Kind:
    return "scale_add", y.device, y.dtype, y.shape[-1]


def linear_kind(x: Tensor) -> Kind:
    return "linear", x.device, x.dtype, x.shape[1]


def masked_linear_kind(x: Tensor, y: Tensor) -> Kind:
    return "masked_linear", x.device, (y.shape[1] * x.shape[1] + 7) // 8


def sparse_add_kind(x: Tensor) -> Kind:
    return "sparse_add", x.device, x.dtype


def lookup_kind(y: Tensor) -> Kind:
    return "lookup", y.device, y.dtype, y.shape[1]


def _low_rank(entry: LowRank) -> Packed:
    down, up, down_bias, up_bias, activation, scale = entry
    rank = len(down)
    out = up.shape[1]
    number = 0 if activation is None else NUMBERS.get(activation.lower())
    scales = scale if isinstance(scale, Tensor) else None
    factor = 1.0 if scale is None or isinstance(scale, Tensor) else float(scale)
    supported = (
        number is not None
        and rank > 0
        and len(up) == rank
        and _compatible(down, down.dtype, down, up, down_bias, up_bias, scales)
        and (down_bias is None or down_bias.shape == (rank,))
        and (up_bias is None or up_bias.shape == (out,))
        and (scales is None or scales.shape in ((1,), (out,)))
    )
    if not supported:
        return Packed(UNSUPPORTED, ABSENT)
    flags = (number or 0) + _SCALE_STEP * int(scales is not None and scales.numel() > 1)
    addresses = (_address(down), _address(up), _address(down_bias), _address(up_bias), _address(scales))
    return Packed(low_rank_kind(down, up), (rank, *addresses, _float_bits(factor), flags), rank, _aligned(down, up))


def _scale_add(entry: ScaleAdd) -> Packed:
    gain, offset = entry
    one = gain if gain is not None else offset
    if one is None or one.dim() != 1 or not _compatible(one, one.dtype, gain, offset):
        return Packed(UNSUPPORTED, ABSENT)
    if any(other is not None and other.shape != one.shape for other in entry):
        return Packed(UNSUPPORTED, ABSENT)
    return Packed(scale_add_kind(one), _struct(1, _address(gain), _address(offset)))


def _linear(entry: Weight) -> Packed:
    weight, bias, outputs = entry
    out = len(weight)
    supported = (
        out > 0
        and _compatible(weight, weight.dtype, weight, bias)
        and (bias is None or bias.shape == (out,))
        and (outputs is None or (outputs.shape == (out,) and _compatible(weight, torch.int64, outputs)))
    )
    if not supported:
        return Packed(UNSUPPORTED, ABSENT)
    words = _struct(out, _address(weight), _address(bias), _address(outputs))
    return Packed(linear_kind(weight), words, out, _aligned(weight))


def _masked_linear(entry: Bits) -> Packed:
    bits = entry.bits
    if bits.dim() != 1 or not _same(bits, torch.uint8, bits):
        return Packed(UNSUPPORTED, ABSENT)
    return Packed(("masked_linear", bits.device, len(bits)), _struct(_address(bits)))


def _sparse_add(entry: Sparse) -> Packed:
    indices, values = entry
    supported = (
        values.dim() == 1
        and indices.shape == values.shape
        and _compatible(values, values.dtype, values)
        and _same(values, torch.int32, indices)
    )
    if not supported:
        return Packed(UNSUPPORTED, ABSENT)
    return Packed(sparse_add_kind(values), _struct(len(values), _address(indices), _address(values)))


def _lookup(entry: Rows) -> Packed:
    rows, ids = entry
    supported = _compatible(rows, rows.dtype, rows) and (
        ids is None or (ids.shape == (len(rows),) and _same(rows, torch.int64, ids))
    )
    if not supported:
        return Packed(UNSUPPORTED, ABSENT)
    return Packed(lookup_kind(rows), _struct(len(rows), _address(rows), _address(ids)))


def _compatible(one: Tensor, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether the programs can read the tensors, which are to have a type and the device of `one`."""
    return one.dtype in _DTYPES and _same(one, dtype, *tensors)


def _same(one: Tensor, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(t is None or (t.device == one.device and t.dtype == dtype and t.is_contiguous()) for t in tensors)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _aligned(*tensors: Tensor) -> bool:
    return all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _struct(*words: int) -> tuple[int, ...]:
    return words + ABSENT[len(words) :]


def _float_bits(number: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<fi", number, 0))[0]
    return bits

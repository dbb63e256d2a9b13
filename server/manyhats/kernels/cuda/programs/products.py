"""Layers that replace the backbone's for the rows of a slot: weights of its own, and the backbone's under its mask."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tiles", "y_width", "y_row"])
def linear(
    x, y, tiles, structs, width, y_width, x_row, y_row,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """y[row, column(n)] = the sum of x[row, k] weight[n, k], plus bias[n].

    x: (rows, width); y: (rows, y_width). Grid: tiles, blocks of outputs of the widest layer. `column`: the entry's
    `outputs`, or n itself.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    entry = structs + tl.load(tiles + tile * 3 + 2).to(tl.int64) * 8
    if count == 0:
        return
    out = tl.load(entry).to(tl.int32)
    if block * OUTPUTS >= out:
        return
    element = x.dtype.element_ty
    weight = tl.load(entry + 1).to(tl.pointer_type(element))
    if ALIGNED:
        weight = tl.multiple_of(weight, 16)
    bias = tl.load(entry + 2)
    outputs = tl.load(entry + 3)
    m = tl.arange(0, ROWS)
    n = block * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, BLOCK)
    own = n < out
    acc = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        kk = start + k
        inside = kk < width
        xs = tl.load(
            x + (first + m)[:, None] * x_row + kk[None, :], mask=(m < count)[:, None] & inside[None, :], other=0.0
        )
        ws = tl.load(weight + n[None, :] * width + kk[:, None], mask=own[None, :] & inside[:, None], other=0.0)
        acc = tl.dot(xs, ws, acc, input_precision=PRECISION)
    if bias != 0:
        acc += tl.load(bias.to(tl.pointer_type(element)) + n, mask=own, other=0.0).to(tl.float32)[None, :]
    column = n.to(tl.int64)
    if outputs != 0:
        column = tl.load(outputs.to(tl.pointer_type(tl.int64)) + n, mask=own, other=0)
    place = y + (first + m)[:, None] * y_row + column[None, :]
    tl.store(place, acc.to(element), mask=(m < count)[:, None] & (own & (column < y_width))[None, :])


@triton.jit(do_not_specialize=["tiles"])
def masked_linear(
    x, y, base, bias, tiles, structs, width, out, x_row, y_row, base_row, base_column,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """y[row, n] = the sum of x[row, k] base[n, k] over the k whose bit is set, plus bias[n].

    x: (rows, width); y: (rows, out); base: (out, width), by its strides. Grid: tiles, blocks of outputs. Neighbours
    share the weight's block, so that it is read from memory once; each task adds its bits, one for a weight.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    entry = structs + tl.load(tiles + tile * 3 + 2).to(tl.int64) * 8
    if count == 0:
        return
    address = tl.load(entry)
    if address == 0:
        return
    bits = address.to(tl.pointer_type(tl.uint8))
    element = x.dtype.element_ty
    m = tl.arange(0, ROWS)
    n = block * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, BLOCK)
    own = n < out
    acc = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        kk = start + k
        inside = own[None, :] & (kk < width)[:, None]
        x_mask = (m < count)[:, None] & (kk < width)[None, :]
        xs = tl.load(x + (first + m)[:, None] * x_row + kk[None, :], mask=x_mask, other=0.0)
        ws = tl.load(base + n[None, :] * base_row + kk[:, None] * base_column, mask=inside, other=0.0)
        index = n[None, :] * width + kk[:, None]
        packed = tl.load(bits + (index >> 3), mask=inside, other=0)
        keep = (packed >> (index & 7).to(tl.uint8)) & 1
        ws = tl.where(keep != 0, ws, tl.zeros_like(ws))
        acc = tl.dot(xs, ws, acc, input_precision=PRECISION)
    if BIASED:
        acc += tl.load(bias + n, mask=own, other=0.0).to(tl.float32)[None, :]
    place = y + (first + m)[:, None] * y_row + n[None, :]
    tl.store(place, acc.to(element), mask=(m < count)[:, None] & own[None, :])

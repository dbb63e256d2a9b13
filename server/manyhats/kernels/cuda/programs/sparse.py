"""Sparse differences of a linear layer's weight."""

import triton
import triton.language as tl


@triton.jit
def first_at_least(indices, count, bound):
    """How many of the `count` rising `indices` are less than `bound`."""
    low = count * 0
    high = count
    while low < high:
        middle = (low + high) // 2
        below = tl.load(indices + middle) < bound
        low = tl.where(below, middle + 1, low)
        high = tl.where(below, high, middle)
    return low


@triton.jit(do_not_specialize=["tiles"])
def sparse_add(
    x, y, tiles, structs, width, out, x_row, y_row,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[row, n] += the sum of value[e] x[row, column(e)] over the changes e of output n.

    x: (rows, width); y: (rows, out). Grid: tiles, blocks of outputs. The changes of a block of outputs stand together.
    Each is multiplied with its column of x; a product with ones where output and change belong together adds them up
    by output, without atomic additions, whose order would differ between runs.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    entry = structs + tl.load(tiles + tile * 3 + 2).to(tl.int64) * 8
    if count == 0:
        return
    changes = tl.load(entry).to(tl.int32)
    if changes == 0:
        return
    element = x.dtype.element_ty
    indices = tl.load(entry + 1).to(tl.pointer_type(tl.int32))
    values = tl.load(entry + 2).to(tl.pointer_type(element))
    n = block * OUTPUTS + tl.arange(0, OUTPUTS)
    begin = first_at_least(indices, changes, (block * OUTPUTS).to(tl.int64) * width)
    end = first_at_least(indices, changes, tl.minimum((block + 1) * OUTPUTS, out).to(tl.int64) * width)
    if begin == end:
        return
    m = tl.arange(0, ROWS)
    acc = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        e = start + tl.arange(0, BLOCK)
        real = e < end
        index = tl.load(indices + e, mask=real, other=0)
        value = tl.load(values + e, mask=real, other=0.0).to(tl.float32)
        xs = tl.load(
            x + (first + m)[:, None] * x_row + (index % width)[None, :],
            mask=(m < count)[:, None] & real[None, :],
            other=0.0,
        )
        belongs = ((index // width)[:, None] == n[None, :]) & real[:, None]
        acc = tl.dot(xs.to(tl.float32) * value[None, :], belongs.to(tl.float32), acc, input_precision="ieee")
    place = y + (first + m)[:, None] * y_row + n[None, :]
    inside = (m < count)[:, None] & (n < out)[None, :]
    old = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (old + acc).to(element), mask=inside)

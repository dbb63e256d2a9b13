"""Operations on single rows: gains and offsets, and embeddings."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tiles"])
def scale_add(y, tiles, structs, width, y_row, y_head, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """y[row, head, n] = y[row, head, n] gain[n] + offset[n]. Grid: tiles, blocks of the width, heads."""
    tile, block, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    entry = structs + tl.load(tiles + tile * 3 + 2).to(tl.int64) * 8
    if count == 0:
        return
    if tl.load(entry) == 0:
        return
    element = y.dtype.element_ty
    gain = tl.load(entry + 1)
    offset = tl.load(entry + 2)
    m = tl.arange(0, ROWS)
    n = block * BLOCK + tl.arange(0, BLOCK)
    own = n < width
    place = y + (first + m)[:, None] * y_row + head * y_head + n[None, :]
    inside = (m < count)[:, None] & own[None, :]
    ys = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if gain != 0:
        ys *= tl.load(gain.to(tl.pointer_type(element)) + n, mask=own, other=0.0).to(tl.float32)[None, :]
    if offset != 0:
        ys += tl.load(offset.to(tl.pointer_type(element)) + n, mask=own, other=0.0).to(tl.float32)[None, :]
    tl.store(place, ys.to(element), mask=inside)


@triton.jit(do_not_specialize=["tiles"])
def copy_rows(source, target, tiles, width, source_row, target_row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """target[row, :] = source[row, :], in the target's type. Grid: tiles, blocks of the width."""
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    if count == 0:
        return
    m = tl.arange(0, ROWS)
    n = block * BLOCK + tl.arange(0, BLOCK)
    inside = (m < count)[:, None] & (n < width)[None, :]
    values = tl.load(source + (first + m)[:, None] * source_row + n[None, :], mask=inside, other=0.0)
    place = target + (first + m)[:, None] * target_row + n[None, :]
    tl.store(place, values.to(target.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["ids", "tiles"])
def lookup(ids, y, tiles, structs, width, y_row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """y[row, :] = rows[i, :] where the token id of the row is the i-th of the entry's. Grid: tiles, blocks of the
    width.

    Entries without ids have a row for each token id.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    entry = structs + tl.load(tiles + tile * 3 + 2).to(tl.int64) * 8
    if count == 0:
        return
    size = tl.load(entry)
    if size == 0:
        return
    element = y.dtype.element_ty
    rows = tl.load(entry + 1).to(tl.pointer_type(element))
    own = tl.load(entry + 2)
    m = tl.arange(0, ROWS)
    n = block * BLOCK + tl.arange(0, BLOCK)
    wanted = tl.load(ids + first + m, mask=m < count, other=-1)
    index = wanted
    if own != 0:
        known = own.to(tl.pointer_type(tl.int64))
        low = tl.zeros((ROWS,), dtype=tl.int64)
        high = low + size
        steps = size
        while steps > 0:  # each halves what is left of all rows' ranges
            middle = (low + high) // 2
            open_ = low < high
            below = (tl.load(known + middle, mask=open_, other=0) < wanted) & open_
            low = tl.where(below, middle + 1, low)
            high = tl.where(open_ & (below == 0), middle, high)
            steps = steps // 2
        found = tl.load(known + low, mask=low < size, other=-1) == wanted
        index = tl.where(found, low, -1)
    inside = ((m < count) & (index >= 0) & (index < size))[:, None] & (n < width)[None, :]
    values = tl.load(rows + index[:, None] * width + n[None, :], mask=inside, other=0.0)
    tl.store(y + (first + m)[:, None] * y_row + n[None, :], values, mask=inside)


@triton.jit
def rms_norm(x, gain, y, width, epsilon, BLOCK: tl.constexpr):
    """y[row, :] = gain x[row, :] / sqrt(mean(x[row, :]^2) + epsilon), rounded before the gain and after it, as
    transformers' layers do. x, y: (rows, width), contiguous. Grid: rows."""
    row = tl.program_id(0).to(tl.int64) * width
    n = tl.arange(0, BLOCK)
    own = n < width
    element = y.dtype.element_ty
    xs = tl.load(x + row + n, mask=own, other=0.0).to(tl.float32)
    mean = tl.sum(xs * xs, axis=0) / width
    scaled = (xs * (1.0 / tl.sqrt(mean + epsilon))).to(element).to(tl.float32)
    gains = tl.load(gain + n, mask=own, other=0.0).to(tl.float32)
    tl.store(y + row + n, (scaled * gains).to(element), mask=own)

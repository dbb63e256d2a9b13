"""Low-rank pairs in two launches, whatever the number of tasks and their ranks.

A launch computes one to three sites that read the same rows. Each has its own table: `structs_a`, with space for
`slots_a` slots, and so on. A slot without an entry there, or beyond the table, has nothing to do at that site. What
belongs to sites that a launch does not have is None.
"""

import triton
import triton.language as tl

from manyhats.kernels.cuda.programs.activations import activate


@triton.jit
def of_site(site, a, b, c, SITES: tl.constexpr):
    """The one of the three that belongs to a site."""
    if SITES > 1:
        a = tl.where(site == 1, b, a)
    if SITES > 2:
        a = tl.where(site == 2, c, a)
    return a


@triton.jit(do_not_specialize=["tiles", "slots_a", "slots_b", "slots_c"])
def shrink(
    x, low, tiles, structs_a, structs_b, structs_c, slots_a, slots_b, slots_c,
    width, x_row, low_row, low_part, low_site,
    ROWS: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, SITES: tl.constexpr,
    ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """low[site, part, row, r] = the sum of x[row, k] down[r, k] over the part's share of k.

    x: (rows, width); low: (SITES, PARTS, rows, ranks), float32. Grid: tiles, blocks of ranks of all sites, parts.
    Several parts keep the device busy where there are few tiles; `expand` adds them up, always in the same order.
    """
    tile, block, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    slot = tl.load(tiles + tile * 3 + 2)
    blocks = tl.num_programs(1) // SITES
    site = block // blocks
    block = block % blocks
    if count == 0 or slot >= of_site(site, slots_a, slots_b, slots_c, SITES):
        return
    entry = of_site(site, structs_a, structs_b, structs_c, SITES) + slot.to(tl.int64) * 8
    rank = tl.load(entry).to(tl.int32)
    if block * RANKS >= rank:
        return
    element = x.dtype.element_ty
    down = tl.load(entry + 1).to(tl.pointer_type(element))
    if ALIGNED:
        down = tl.multiple_of(down, 16)
    m = tl.arange(0, ROWS)
    r = block * RANKS + tl.arange(0, RANKS)
    k = tl.arange(0, BLOCK)
    acc = tl.zeros((ROWS, RANKS), dtype=tl.float32)
    for start in range(part * BLOCK, width, BLOCK * PARTS):
        kk = start + k
        inside = kk < width
        xs = tl.load(
            x + (first + m)[:, None] * x_row + kk[None, :], mask=(m < count)[:, None] & inside[None, :], other=0.0
        )
        ds = tl.load(down + r[None, :] * width + kk[:, None], mask=(r < rank)[None, :] & inside[:, None], other=0.0)
        acc = tl.dot(xs, ds, acc, input_precision=PRECISION)
    place = low + site.to(tl.int64) * low_site + part * low_part + (first + m)[:, None] * low_row + r[None, :]
    tl.store(place, acc, mask=(m < count)[:, None] & (r < rank)[None, :])


@triton.jit(do_not_specialize=["tiles", "slots_a", "slots_b", "slots_c"])
def expand(
    low, y_a, y_b, y_c, tiles, structs_a, structs_b, structs_c, slots_a, slots_b, slots_c, row_scale,
    out_a, out_b, out_c, low_row, low_part, low_site, y_a_row, y_b_row, y_c_row, scale_row,
    ROWS: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, SITES: tl.constexpr,
    SCALED: tl.constexpr, ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """y[row, n] += scale[n] row_scale[row] (act(low[row, :] + down_bias) up[:, n] + up_bias[n]).

    y: (rows, out) of each site. Grid: tiles, blocks of the outputs of one site after the other. `SCALED`: whether there
    is a `row_scale`.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 3).to(tl.int64)
    count = tl.load(tiles + tile * 3 + 1)
    slot = tl.load(tiles + tile * 3 + 2)
    site = 0
    if SITES > 1:
        second = tl.cdiv(out_a, BLOCK)  # the first block of the second site
        site = tl.where(block >= second, 1, 0)
        begin = tl.where(block >= second, second, 0)
        if SITES > 2:
            third = second + tl.cdiv(out_b, BLOCK)
            site = tl.where(block >= third, 2, site)
            begin = tl.where(block >= third, third, begin)
        block -= begin
    if count == 0 or slot >= of_site(site, slots_a, slots_b, slots_c, SITES):
        return
    entry = of_site(site, structs_a, structs_b, structs_c, SITES) + slot.to(tl.int64) * 8
    rank = tl.load(entry).to(tl.int32)
    if rank == 0:
        return
    y = of_site(site, y_a, y_b, y_c, SITES)
    y_row = of_site(site, y_a_row, y_b_row, y_c_row, SITES)
    out = of_site(site, out_a, out_b, out_c, SITES)
    if SITES > 1:
        low += site.to(tl.int64) * low_site
    element = y.dtype.element_ty
    up = tl.load(entry + 2).to(tl.pointer_type(element))
    if ALIGNED:
        up = tl.multiple_of(up, 16)
    down_bias = tl.load(entry + 3)
    up_bias = tl.load(entry + 4)
    scale = tl.load(entry + 5)
    factor = tl.load((entry + 6).to(tl.pointer_type(tl.float32)))
    flags = tl.load(entry + 7)
    activation = (flags & 255).to(tl.int32)
    scale_step = (flags >> 8).to(tl.int32)
    m = tl.arange(0, ROWS)
    n = block * BLOCK + tl.arange(0, BLOCK)
    columns = n < out
    acc = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(0, rank, RANKS):
        r = start + tl.arange(0, RANKS)
        inside = (m < count)[:, None] & (r < rank)[None, :]
        place = low + (first + m)[:, None] * low_row + r[None, :]
        ls = tl.load(place, mask=inside, other=0.0)
        for part in range(1, PARTS):
            ls += tl.load(place + part * low_part, mask=inside, other=0.0)
        if down_bias != 0:
            bias = tl.load(down_bias.to(tl.pointer_type(element)) + r, mask=r < rank, other=0.0)
            ls += bias.to(tl.float32)[None, :]
        if activation != 0:
            ls = activate(ls, activation)
        us = tl.load(up + r[:, None] * out + n[None, :], mask=(r < rank)[:, None] & columns[None, :], other=0.0)
        acc = tl.dot(ls.to(element), us, acc, input_precision=PRECISION)
    if up_bias != 0:
        bias = tl.load(up_bias.to(tl.pointer_type(element)) + n, mask=columns, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    if scale != 0:
        scales = tl.load(scale.to(tl.pointer_type(element)) + n * scale_step, mask=columns, other=0.0)
        acc *= scales.to(tl.float32)[None, :]
    acc *= factor
    if SCALED:
        rows = tl.load(row_scale + (first + m) * scale_row, mask=m < count, other=0.0)
        acc *= rows.to(tl.float32)[:, None]
    place = y + (first + m)[:, None] * y_row + n[None, :]
    inside = (m < count)[:, None] & columns[None, :]
    old = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (old + acc).to(element), mask=inside)

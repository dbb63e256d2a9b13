"""Attention of single queries to rows of the cache.

Where there are few sequences, the rows of each are divided among several programs, and a second launch merges their
results.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "bounds", "first", "window", "cache_rows"])
def attend_rows(
    q, new_key, new_value, keys, values, out, parts, sums, rows, bounds, first, scaling, window, cache_rows,
    q_row, q_head, key_row, key_head, value_row, value_head, cache_row, cache_head, out_row, out_head,
    FOLDED: tl.constexpr, QUERIES: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    NEW: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """See `kernels.base.RowAttention`. Grid: sequences, heads of keys, splits.

    The `FOLDED` query heads that share a head of keys are the rows of a program's products. `NEW`: the last of a
    sequence's rows gets its new key and value, with which the sums begin; no program reads that row. What refers to a
    row outside the cache becomes NaN, so that its own sequence fails.

    With several `SPLITS` each takes an equal share of the sequence's rows, in whole blocks, and writes for
    `merge_splits` its weighted sum of values to `parts` (sequences, heads, SPLITS, dim), and to `sums` (sequences,
    heads, SPLITS, 2) its highest score and its weights' total. Some have no rows.
    """
    sequence, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin = tl.load(bounds + sequence)
    end = tl.load(bounds + sequence + 1)
    begin += tl.maximum(tl.load(first + sequence), end - begin - window)
    element = q.dtype.element_ty
    f = tl.arange(0, QUERIES)
    d = tl.arange(0, WIDTH)
    t = tl.arange(0, BLOCK)
    real = (f < FOLDED)[:, None] & (d < DIM)[None, :]
    qs = tl.load(
        q + sequence.to(tl.int64) * q_row + (head * FOLDED + f)[:, None] * q_head + d[None, :], mask=real, other=0.0
    )
    top = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    acc = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    own_part = (sequence.to(tl.int64) * tl.num_programs(1) * FOLDED + head * FOLDED + f) * SPLITS + split
    if NEW:
        end -= 1
    last = end
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), SPLITS), BLOCK) * BLOCK
        begin += split * share
        end = tl.minimum(begin + share, end)
        without = begin >= end
        if NEW:
            without = without & (split > 0)
        if without:
            tl.store(sums + own_part * 2, tl.full((QUERIES,), float("-inf"), dtype=tl.float32), mask=f < FOLDED)
            tl.store(sums + own_part * 2 + 1, tl.zeros((QUERIES,), dtype=tl.float32), mask=f < FOLDED)
            return
    if NEW:
        new_key += sequence.to(tl.int64) * key_row + head * key_head
        new_value += sequence.to(tl.int64) * value_row + head * value_head
        nk = tl.load(new_key + d, mask=d < DIM, other=0.0)
        nv = tl.load(new_value + d, mask=d < DIM, other=0.0)
        writes = split == 0
        own = tl.load(rows + last, mask=writes & (last >= begin), other=-1)
        within = (own >= 0) & (own < cache_rows)
        target = own * cache_row + head * cache_head + d
        tl.store(keys + target, nk, mask=(d < DIM) & within)
        tl.store(values + target, nv, mask=(d < DIM) & within)
        top = tl.sum(qs.to(tl.float32) * nk.to(tl.float32)[None, :], axis=1) * scaling
        top = tl.where(within, top, float("nan"))
        total += 1.0
        acc += nv.to(tl.float32)[None, :]
        if SPLITS > 1:
            top = tl.where(writes, top, float("-inf"))
            total = tl.where(writes, total, 0.0)
            acc = tl.where(writes, acc, 0.0)
    for start in range(begin, end, BLOCK):
        seen = start + t < end
        row = tl.load(rows + start + t, mask=seen, other=0)
        there = seen & (row >= 0) & (row < cache_rows)
        place = row * cache_row + head * cache_head
        ks = tl.load(keys + place[None, :] + d[:, None], mask=there[None, :] & (d < DIM)[:, None], other=0.0)
        vs = tl.load(values + place[:, None] + d[None, :], mask=there[:, None] & (d < DIM)[None, :], other=0.0)
        scores = tl.dot(qs, ks, input_precision=PRECISION) * scaling
        scores = tl.where(seen[None, :], scores, float("-inf"))
        scores = tl.where((seen & (there == 0))[None, :], float("nan"), scores)
        highest = tl.maximum(top, tl.max(scores, axis=1))
        shrunk = tl.exp(top - highest)
        weights = tl.exp(scores - highest[:, None])
        total = total * shrunk + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(element), vs, acc * shrunk[:, None], input_precision=PRECISION)
        top = highest
    if SPLITS > 1:
        tl.store(sums + own_part * 2, top, mask=f < FOLDED)
        tl.store(sums + own_part * 2 + 1, total, mask=f < FOLDED)
        tl.store(parts + own_part[:, None] * DIM + d[None, :], acc, mask=real)
        return
    acc = tl.where((top == top)[:, None], acc / total[:, None], float("nan"))
    answer = out + sequence.to(tl.int64) * out_row + (head * FOLDED + f)[:, None] * out_head + d[None, :]
    tl.store(answer, acc.to(element), mask=real)


@triton.jit
def merge_splits(
    out, parts, sums, out_row, out_head,
    DIM: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """out[sequence, head, :] from the splits' sums. Grid: sequences, heads of queries. What splits without rows left in
    `parts` is not read."""
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = (sequence * tl.num_programs(1) + head) * SPLITS + tl.arange(0, SPLITS)
    d = tl.arange(0, WIDTH)
    tops = tl.load(sums + own * 2)
    totals = tl.load(sums + own * 2 + 1)
    some = totals != 0.0
    highest = tl.max(tl.where(some, tops, float("-inf")), axis=0)
    weights = tl.where(some, tl.exp(tl.where(some, tops - highest, 0.0)), 0.0)
    values = tl.load(parts + own[:, None] * DIM + d[None, :], mask=some[:, None] & (d < DIM)[None, :], other=0.0)
    acc = tl.sum(values * weights[:, None], axis=0) / tl.sum(totals * weights, axis=0)
    wrong = tl.sum((tops != tops).to(tl.int32), axis=0) > 0
    acc = tl.where(wrong, float("nan"), acc)
    tl.store(out + sequence * out_row + head * out_head + d, acc.to(out.dtype.element_ty), mask=d < DIM)

"""Attention of single queries to rows of the cache."""

import triton
import triton.language as tl


@triton.jit
def attend_rows(
    q, new_key, new_value, keys, values, out, rows, bounds, first, scaling, cache_rows,
    q_row, q_head, key_row, key_head, value_row, value_head, cache_row, cache_head, out_row, out_head,
    FOLDED: tl.constexpr, QUERIES: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    NEW: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """See `kernels.base.RowAttention`. Grid: sequences, heads of keys.

    The `FOLDED` query heads that share a head of keys are the rows of a program's products. `NEW`: the last of a
    sequence's rows gets its new key and value, with which the sums begin; no program reads that row. What refers to a
    row outside the cache becomes NaN, so that its own sequence fails.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    begin = tl.load(bounds + sequence) + tl.load(first + sequence)
    end = tl.load(bounds + sequence + 1)
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
    if NEW:
        new_key += sequence.to(tl.int64) * key_row + head * key_head
        new_value += sequence.to(tl.int64) * value_row + head * value_head
        nk = tl.load(new_key + d, mask=d < DIM, other=0.0)
        nv = tl.load(new_value + d, mask=d < DIM, other=0.0)
        end -= 1
        own = tl.load(rows + end, mask=end >= begin, other=-1)
        within = (own >= 0) & (own < cache_rows)
        target = own * cache_row + head * cache_head + d
        tl.store(keys + target, nk, mask=(d < DIM) & within)
        tl.store(values + target, nv, mask=(d < DIM) & within)
        top = tl.sum(qs.to(tl.float32) * nk.to(tl.float32)[None, :], axis=1) * scaling
        top = tl.where(within, top, float("nan"))
        total += 1.0
        acc += nv.to(tl.float32)[None, :]
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
    acc = tl.where((top == top)[:, None], acc / total[:, None], float("nan"))
    answer = out + sequence.to(tl.int64) * out_row + (head * FOLDED + f)[:, None] * out_head + d[None, :]
    tl.store(answer, acc.to(element), mask=real)

"""Attention of single queries to rows of a cache of keys and values: one token of each sequence that generates."""

from __future__ import annotations

import torch
from torch import Tensor

from manyhats.kernels.cuda.launch import Launch, launch
from manyhats.kernels.cuda.programs.attention import attend_rows, merge_splits

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_LEAST = 16  # rows and columns of a product
_STEP = 64  # rows of the cache times bytes of a number, of a step
# What a sequence's rows are divided into: so that there are about as many programs, two for each part of a large GPU;
# at most so many; and none where the whole cache has fewer rows than these for each.
_PROGRAMS = 256
_MOST_SPLITS = 16
_ROWS_OF_A_SPLIT = 128
_UNLIMITED = (1 << 31) - 1  # a window over all rows, in the same 32 bits as another


class CachedRowAttention:
    """Reads keys and values where they lie in the cache, in one launch, or for few sequences in two. Sums are in
    float32. Without gradients."""

    on_host = False

    def __init__(self, launch: Launch = launch) -> None:
        self._launch = launch

    def supports(self, dtype: torch.dtype) -> bool:
        """Whether it computes in this type."""
        return dtype in _DTYPES

    def __call__(
        self,
        q: Tensor,
        new: tuple[Tensor, Tensor] | None,
        cache: tuple[Tensor, Tensor],
        rows: Tensor,
        bounds: Tensor,
        first: Tensor,
        scaling: float,
        window: int | None = None,
    ) -> Tensor:
        """See `kernels.base.RowAttention`. The output of a sequence with rows outside the cache, or without any, is
        not a number."""
        keys, values = cache
        sequences, heads, dim = q.shape
        kv_heads = keys.shape[1]
        key, value = new or (q, q)  # not read where there are none
        tensors = (q, key, value, keys, values)
        assert all(t.dtype is keys.dtype and t.stride(-1) == 1 for t in tensors), "vectors that are not contiguous"
        assert keys.stride() == values.stride(), "keys and values with other strides"
        assert len(bounds) == len(first) + 1 == sequences + 1, "bounds of other sequences"
        assert all(t.dtype is torch.int64 and t.is_contiguous() for t in (rows, bounds, first)), "other indices"
        out = torch.empty((sequences, heads, dim), dtype=q.dtype, device=q.device)
        strides = (stride for t in (q, key, value, keys, out) for stride in t.stride()[:2])
        folded = heads // kv_heads
        splits = splits_of(sequences * kv_heads, len(keys))
        parts = sums = out  # not written to
        if splits > 1:
            parts = torch.empty((sequences, heads, splits, dim), dtype=torch.float32, device=q.device)
            sums = torch.empty((sequences, heads, splits, 2), dtype=torch.float32, device=q.device)
        self._launch(
            attend_rows, (sequences, kv_heads, splits),
            q, key, value, keys, values, out, parts, sums, rows, bounds, first, scaling,
            _UNLIMITED if window is None else window, len(keys), *strides,
            FOLDED=folded, QUERIES=_power(folded), DIM=dim, WIDTH=_power(dim), BLOCK=_STEP // q.element_size(),
            NEW=new is not None, SPLITS=splits,
        )  # fmt: skip
        if splits > 1:
            self._launch(
                merge_splits, (sequences, heads), out, parts, sums, *out.stride()[:2],
                DIM=dim, WIDTH=_power(dim), SPLITS=splits,
            )  # fmt: skip
        return out


def splits_of(programs: int, cache_rows: int) -> int:
    """Into how many parts, a power of two, the rows of each sequence are divided, where so many programs would read
    them whole.

    It depends on the number of sequences and on the cache's size alone: a launch that is captured is replayed for
    sequences of other lengths.
    """
    most = min(_MOST_SPLITS, _PROGRAMS // max(programs, 1), cache_rows // _ROWS_OF_A_SPLIT)
    return 1 << max(most, 1).bit_length() - 1


def _power(size: int) -> int:
    """The least power of two of that size that a product takes."""
    return max(1 << (size - 1).bit_length(), _LEAST)

"""Attention of single queries to rows of a cache of keys and values: one token of each sequence that generates."""

from __future__ import annotations

from ctypes import addressof, c_int64

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.kernels.cpu.library import Library, load


class CachedRowAttention:
    """Reads keys and values where they lie in the cache. For float32 and bfloat16, without gradients, on torch's own
    threads; sums are in float32. Raises ConfigurationError where the library cannot be used."""

    on_host = True

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or load()

    def supports(self, dtype: torch.dtype) -> bool:
        """Whether it computes in this type."""
        return dtype in self._library.attend_rows

    def __call__(
        self,
        q: Tensor,
        new: tuple[Tensor, Tensor] | None,
        cache: tuple[Tensor, Tensor],
        rows: NDArray[np.int64],
        bounds: NDArray[np.int64],
        first: NDArray[np.int64],
        scaling: float,
        window: int | None = None,
    ) -> Tensor:
        """See `kernels.base.RowAttention`. Raises RuntimeError for rows outside the cache."""
        keys, values = cache
        sequences, heads, dim = q.shape
        kv_heads = keys.shape[1]
        tensors = [q, *(new or ())]
        assert all(t.dtype is keys.dtype and t.stride(-1) == 1 for t in tensors), "vectors that are not contiguous"
        assert all(t.is_contiguous() for t in cache), "a cache that is not contiguous"
        assert len(bounds) == len(first) + 1 == sequences + 1, "bounds of other sequences"
        assert all(array.dtype == np.int64 for array in (rows, bounds, first)), "indices that are not int64"
        if window is not None:
            first = np.maximum(first, bounds[1:] - bounds[:-1] - window)
        out = torch.empty((sequences, heads, dim), dtype=q.dtype)
        strides = (c_int64 * 6)(*(stride for t in tensors for stride in t.stride()[:2]))
        code = self._library.attend_rows[q.dtype](
            self._library.number,
            q.data_ptr(),
            None if new is None else new[0].data_ptr(),
            None if new is None else new[1].data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            addressof(strides),
            sequences,
            kv_heads,
            heads // kv_heads,
            dim,
            scaling,
            rows.ctypes.data,
            bounds.ctypes.data,
            first.ctypes.data,
            len(keys),
            torch.get_num_threads(),
        )
        if code:
            raise Library.failure("attend_rows", code)
        return out

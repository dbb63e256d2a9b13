"""The cache of keys and values.

A pass writes its tokens' keys and values into rows of the cache; every sequence states which rows it attends to.
Sequences may share rows: a task's prefix, or the common beginning of prompts, is stored once.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class RowAttention(Protocol):
    """Attention of single queries to rows of the cache; see `kernels.base.RowAttention`."""

    on_host: bool

    def __call__(
        self,
        q: Tensor,
        new: tuple[Tensor, Tensor] | None,
        cache: tuple[Tensor, Tensor],
        rows: Any,
        bounds: Any,
        first: Any,
        scaling: float,
        window: int | None = None,
    ) -> Tensor: ...


class KeyValueCache:
    """`rows` rows for every layer, uninitialised, and one more, `pad_row`, for sequences that only fill up a batch.

    `entries`: by layer (2, rows, kv_heads, head_dim), keys and values, so that one operation gathers both.
    `row_attention`: for sequences with one new token; None: torch's, which needs keys and values gathered.
    """

    def __init__(
        self,
        rows: int,
        layers: int,
        kv_shape: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        row_attention: RowAttention | None = None,
    ) -> None:
        self.row_attention = row_attention
        self.rows = self.pad_row = rows
        self.entries = [torch.empty((2, rows + 1, *kv_shape), device=device, dtype=dtype) for _ in range(layers)]
        self.keys = [entries[0] for entries in self.entries]
        self.values = [entries[1] for entries in self.entries]

    @staticmethod
    def row_bytes(layers: int, kv_shape: tuple[int, int], dtype: torch.dtype) -> int:
        """Bytes of one row in all layers."""
        return 2 * layers * kv_shape[0] * kv_shape[1] * dtype.itemsize

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes (n, kv_heads, head_dim) into n rows."""
        self.keys[layer].index_copy_(0, rows, keys)
        self.values[layer].index_copy_(0, rows, values)

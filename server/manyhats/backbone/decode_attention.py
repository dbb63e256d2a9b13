"""Attention of sequences that have one new token each, to keys and values where they lie in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.cache import KeyValueCache, RowAttention
from manyhats.backbone.chunks import SequenceChunk


class DecodeAttention:
    """One call of `attention` for the sequences `members`, without padding, groups of similar length, or copies of keys
    and values: a sequence's output does not depend on the others."""

    def __init__(
        self, chunks: Sequence[SequenceChunk], members: list[int], cache: KeyValueCache, attention: RowAttention
    ) -> None:
        self.members = members
        chunks = [chunks[i] for i in members]
        self._cache = cache
        self._attention = attention
        tables = [chunk.cache_rows for chunk in chunks if chunk.cache_rows is not None]
        self._rows = np.concatenate(tables)
        self._seen = np.array([len(rows) for rows in tables])
        self._bounds = np.concatenate([[0], np.cumsum(self._seen)])
        self._prefixes = np.array([chunk.cached_prefix for chunk in chunks])
        self._left_out = [chunk.left_out for chunk in chunks]
        self._layers = frozenset[int]().union(*self._left_out)  # that hide some prefix
        self._nothing = np.zeros(len(tables), dtype=np.int64)

    def __call__(
        self, layer: int, q: Tensor, new: tuple[Tensor, Tensor] | None, scaling: float | None, window: int | None
    ) -> Tensor:
        """q (S, heads, dim) to (S, heads, dim).

        `new`: keys and values (S, kv_heads, dim), written into the cache before; None: they are in it. `window`: see
        `AttentionLayout.attend`.
        """
        cache = self._cache.keys[layer], self._cache.values[layer]
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return self._attention(q, new, cache, self._rows, self._bounds, self._first(layer, window), scale)

    def _first(self, layer: int, window: int | None) -> NDArray[np.int64]:
        """How many rows at its beginning each sequence does not attend to."""
        first = self._nothing
        if layer in self._layers:
            first = np.where([layer in own for own in self._left_out], self._prefixes, 0)
        return first if window is None else np.maximum(first, self._seen - window)


def decode_attention(chunks: Sequence[SequenceChunk], cache: KeyValueCache | None) -> DecodeAttention | None:
    """For the cached sequences of a pass that have one new token; None where there are none, or torch's attention does
    it, as for gradients."""
    if cache is None or cache.row_attention is None or torch.is_grad_enabled():
        return None
    found = [i for i, chunk in enumerate(chunks) if chunk.cache_rows is not None and chunk.length == 1]
    return DecodeAttention(chunks, found, cache, cache.row_attention) if found else None

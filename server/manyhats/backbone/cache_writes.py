"""Writes the keys and values of a pass's tokens into the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.staging import StagingBuffer

_CACHED_TOKENS = "attention.cached_tokens"  # rows of the packed tokens whose keys and values go into the cache
_SLOT_MAPPING = "attention.slot_mapping"  # the rows of the cache that they go into


class CacheWrites:
    """For the cached ones among the `chunks` of a pass, whose first rows are `starts`. Indices are put into `staging`,
    which must be committed before a call."""

    def __init__(
        self,
        chunks: Sequence[SequenceChunk],
        starts: NDArray[np.int64],
        cache: KeyValueCache,
        staging: StagingBuffer,
    ) -> None:
        self._cache = cache
        self._staging = staging
        self._tokens = sum(chunk.length for chunk in chunks)
        found = [
            (chunk.cache_rows[-chunk.length :], np.arange(start, start + chunk.length))
            for chunk, start in zip(chunks, starts, strict=True)
            if chunk.cache_rows is not None
        ]
        slots = np.concatenate([rows for rows, _ in found])
        staging.put(_SLOT_MAPPING, slots)
        if len(slots) < self._tokens:
            staging.put(_CACHED_TOKENS, np.concatenate([tokens for _, tokens in found]))

    def __call__(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Writes rows of k and v (tokens and more, kv_heads, dim)."""
        if _CACHED_TOKENS in self._staging:
            tokens = self._staging[_CACHED_TOKENS]
            k, v = k.index_select(0, tokens), v.index_select(0, tokens)
        self._cache.write(layer, self._staging[_SLOT_MAPPING], k[: self._tokens], v[: self._tokens])

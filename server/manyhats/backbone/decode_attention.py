"""Attention of sequences that have one new token each, to keys and values where they lie in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.cache import KeyValueCache, RowAttention
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.staging import StagingBuffer

CACHE_ROWS = "attention.decode_rows"  # rows of the cache, of all sequences one behind the other
_BOUNDS = "attention.decode_bounds"  # (S + 1,) where each one's begin, and their number
_FIRST = "attention.decode_first"  # (n, S) how many rows each sequence does not attend to, as layers differ in it


class DecodeAttention:
    """One call of `attention` for the sequences `members`, without padding, groups of similar length, or copies of keys
    and values: a sequence's output does not depend on the others.

    Indices are put into `staging` where `attention` takes them on the device; it must be committed before a call.
    """

    def __init__(
        self,
        chunks: Sequence[SequenceChunk],
        members: list[int],
        cache: KeyValueCache,
        attention: RowAttention,
        staging: StagingBuffer,
    ) -> None:
        self.members = members
        chunks = [chunks[i] for i in members]
        self._cache = cache
        self._attention = attention
        tables = [chunk.cache_rows for chunk in chunks if chunk.cache_rows is not None]
        self._rows = np.concatenate(tables)
        self._bounds = np.concatenate([[0], np.cumsum([len(rows) for rows in tables])])
        self._prefixes = np.array([chunk.cached_prefix for chunk in chunks])
        self._left_out = [chunk.left_out for chunk in chunks]
        self._layers = frozenset[int]().union(*self._left_out)  # that hide some prefix
        self._nothing = np.zeros(len(tables), dtype=np.int64)
        self._staging = None if attention.on_host else staging
        self._first_rows: dict[int, int] = {}  # of `_FIRST`, by layer; of others the first
        if self._staging is not None:
            self._put(self._staging)

    def _put(self, staging: StagingBuffer) -> None:
        distinct = {self._nothing.tobytes(): 0}
        firsts = [self._nothing]
        for layer in sorted(self._layers):
            own = self._hidden(layer)
            if own.tobytes() not in distinct:
                distinct[own.tobytes()] = len(firsts)
                firsts.append(own)
            self._first_rows[layer] = distinct[own.tobytes()]
        staging.put(CACHE_ROWS, self._rows.astype(np.int64, copy=False))
        staging.put(_BOUNDS, self._bounds)
        staging.put(_FIRST, np.stack(firsts))

    def __call__(
        self, layer: int, q: Tensor, new: tuple[Tensor, Tensor] | None, scaling: float | None, window: int | None
    ) -> Tensor:
        """q (S, heads, dim) to (S, heads, dim).

        `new`: keys and values (S, kv_heads, dim), written into the cache before; None: they are in it. `window`: see
        `AttentionLayout.attend`.
        """
        cache = self._cache.keys[layer], self._cache.values[layer]
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        if self._staging is None:
            first = self._hidden(layer) if layer in self._layers else self._nothing
            return self._attention(q, new, cache, self._rows, self._bounds, first, scale, window)
        # A step that is captured runs again later: all that depends on its sequences is read from the staging memory.
        rows, bounds, firsts = (self._staging[name] for name in (CACHE_ROWS, _BOUNDS, _FIRST))
        return self._attention(q, new, cache, rows, bounds, firsts[self._first_rows.get(layer, 0)], scale, window)

    def _hidden(self, layer: int) -> NDArray[np.int64]:
        """How many rows at its beginning each sequence does not attend to in a layer that hides prefixes."""
        return np.where([layer in own for own in self._left_out], self._prefixes, 0)


def decode_attention(
    chunks: Sequence[SequenceChunk], cache: KeyValueCache | None, staging: StagingBuffer
) -> DecodeAttention | None:
    """For the cached sequences of a pass that have one new token; None where there are none, or torch's attention does
    it, as for gradients."""
    if cache is None or cache.row_attention is None or torch.is_grad_enabled():
        return None
    found = decode_members(chunks, cache)
    return DecodeAttention(chunks, found, cache, cache.row_attention, staging) if found else None


def decode_members(chunks: Sequence[SequenceChunk], cache: KeyValueCache | None) -> list[int]:
    """Those that the cache's own attention computes, by their index in the batch."""
    if cache is None or cache.row_attention is None or torch.is_grad_enabled():
        return []
    return [i for i, chunk in enumerate(chunks) if chunk.cache_rows is not None and chunk.length == 1]

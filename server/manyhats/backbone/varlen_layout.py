"""Who attends to whom in one pass, for attention that takes sequences of any lengths side by side.

Does what `attention_layout` does, without groups: all whole and cached sequences are one call, but for those with a
single new token where the cache has a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.attention_layout import AttentionLayout, before, hides_prefix
from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.cache_writes import CacheWrites
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.decode_attention import decode_attention, decode_members
from manyhats.backbone.staging import StagingBuffer
from manyhats.backbone.varlen_attention import VarlenAttention

_QUERIES = "attention.varlen_queries"  # rows of the packed tokens, sequence by sequence
_INVERSE = "attention.varlen_inverse"  # the index of each token among them
_KEYS = "attention.varlen_keys"  # rows of tokens and prefixes, of all whole sequences
_CACHE_ROWS = "attention.varlen_cache_rows"  # rows of the cache, of all cached ones
_QUERY_BOUNDS = "attention.varlen_query_bounds"  # (S + 1,) the first query of each sequence, and their number
_KEY_BOUNDS = "attention.varlen_key_bounds"  # the same of its keys


class VarlenLayout:
    """See `AttentionLayout`; no sequence may have a prefix that it does not attend to in some layer."""

    def __init__(
        self,
        chunks: Sequence[SequenceChunk],
        staging: StagingBuffer,
        attention: VarlenAttention,
        *,
        causal: bool,
        cache: KeyValueCache | None = None,
    ) -> None:
        self._staging = staging
        self._attention = attention
        self._causal = causal
        self._cache = cache
        self._decodes = decode_attention(chunks, cache, staging)
        decodes = [] if self._decodes is None else self._decodes.members
        others = frozenset(range(len(chunks))).difference(decodes)
        whole = [i for i in sorted(others) if chunks[i].cache_rows is None]
        cached = [i for i in sorted(others) if chunks[i].cache_rows is not None]
        lengths = np.array([chunk.length for chunk in chunks])
        starts = np.cumsum(lengths) - lengths
        self._tokens = int(lengths.sum())
        order = [*whole, *cached, *decodes]
        queries = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in order])
        self._in_order = _rise_from_zero(queries)
        if not self._in_order:
            staging.put(_QUERIES, queries)
            staging.put(_INVERSE, np.argsort(queries))
        self._keys_in_order = self._put_keys([chunks[i] for i in whole], starts[whole])
        self._whole, self._cached = bool(whole), bool(cached)
        if cached:
            tables = [rows for i in cached if (rows := chunks[i].cache_rows) is not None]
            staging.put(_CACHE_ROWS, np.concatenate(tables))
        own = lengths[[*whole, *cached]]
        seen = own + np.array([before(chunks[i]) for i in (*whole, *cached)])
        self._queries = int(own.sum())
        self._longest = int(own.max()), int(seen.max())
        for name, sizes in ((_QUERY_BOUNDS, own), (_KEY_BOUNDS, seen)):
            staging.put(name, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
        self._write = CacheWrites(chunks, starts, cache, staging) if cache is not None and (cached or decodes) else None

    def _put_keys(self, chunks: Sequence[SequenceChunk], starts: NDArray[np.int64]) -> bool:
        """Stages the rows of whole sequences' keys: of the prefix, then its own. Returns whether they are the first of
        the batch's tokens."""
        rows = [np.arange(0)]
        for chunk, start in zip(chunks, starts, strict=True):
            first, last = chunk.batch_prefix
            rows += [np.arange(self._tokens + first, self._tokens + last), np.arange(start, start + chunk.length)]
        every = np.concatenate(rows)
        self._key_count = len(every)
        if _rise_from_zero(every):
            return True
        self._staging.put(_KEYS, every)
        return False

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """See `AttentionLayout.attend`."""
        if self._write is not None:
            self._write(layer, k, v)
        queries = q if self._in_order else q.index_select(0, self._staging[_QUERIES])
        bounds = self._staging[_QUERY_BOUNDS], self._staging[_KEY_BOUNDS]
        keys, values = self._keys(layer, k, v)
        own = queries[: self._queries]
        out = self._attention(own, keys, values, bounds, self._longest, scaling, window, causal=self._causal)
        if self._decodes is not None:
            out = torch.cat([out, self._decodes(layer, queries[self._queries :], None, scaling, window)])
        return out if self._in_order else out.index_select(0, self._staging[_INVERSE])

    def _keys(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all sequences, one behind the other."""
        found: list[Tensor] = []  # (2, rows, kv_heads, dim)
        if self._whole:
            if self._keys_in_order:
                k, v = k[: self._key_count], v[: self._key_count]
            else:
                k, v = (t.index_select(0, self._staging[_KEYS]) for t in (k, v))
            if not self._cached:
                return k, v
            found.append(torch.stack([k, v]))
        if self._cached and self._cache is not None:
            found.append(self._cache.entries[layer].index_select(1, self._staging[_CACHE_ROWS]))
        keys, values = (found[0] if len(found) == 1 else torch.cat(found, 1)).unbind(0)
        return keys, values


def attention_layout(
    chunks: Sequence[SequenceChunk],
    staging: StagingBuffer,
    *,
    causal: bool,
    device: torch.device,
    dtype: torch.dtype,
    cache: KeyValueCache | None = None,
    varlen: VarlenAttention | None = None,
) -> AttentionLayout | VarlenLayout:
    """The layout of a pass. Without `varlen`, with gradients, where a prefix is hidden, and where all sequences have
    one new token for the cache's own call, it is in groups of similar length."""
    grouped = torch.is_grad_enabled() or any(map(hides_prefix, chunks))
    if varlen is None or grouped or len(decode_members(chunks, cache)) == len(chunks):
        return AttentionLayout(chunks, staging, causal=causal, device=device, dtype=dtype, cache=cache)
    return VarlenLayout(chunks, staging, varlen, causal=causal, cache=cache)


def _rise_from_zero(rows: NDArray[np.int64]) -> bool:
    return bool((rows == np.arange(len(rows))).all())

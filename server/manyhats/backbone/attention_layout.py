"""Who attends to whom in one pass: whole sequences and new tokens of cached ones, side by side.

Sequences of similar length are gathered into a few groups, each one call of `scaled_dot_product_attention`; pads exist
only there. All groups of a pass are gathered by one operation, and scattered by one.

Shapes of arrays by token or by sequence depend on the numbers of these alone. Between two decode steps only the groups
change further shapes: by their number, and by the rows that the longest sequence of each attends to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.cache_writes import CacheWrites
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.decode_attention import decode_attention
from manyhats.backbone.staging import StagingBuffer

# A group takes sequences up to this much longer than its shortest: a trade between pads and the number of calls.
_GROWTH = 1.25
_SLACK = 4
# The same for the rows that cached sequences attend to.
_CACHED_GROWTH = 1.5
_CACHED_SLACK = 32

# Query heads that share keys become further queries of one head, up to so many. The mask is repeated for them; beyond
# that, the keys are repeated instead. torch's own grouped attention is slow on CUDA with a mask; on the CPU it is as
# fast, except for a single query.
_MAX_FOLDED = 2048

_QUERIES = "attention.queries"  # rows of the packed tokens, of all groups; pads repeat the sequence's first token
_INVERSE = "attention.inverse"  # the index of each token among them
_KEYS = "attention.keys"  # rows of tokens and prefixes, of all groups of whole sequences; pads as above
_CACHE_ROWS = "attention.cache_rows"  # rows of the cache, of all groups of cached ones; pads repeat the first
_BOUNDS = "attention.bounds"  # (2, S) in the groups' order: rows before a sequence's first token, and all rows
_HIDDEN_PREFIXES = "attention.hidden_prefixes"  # rows at a sequence's beginning that some layers do not attend to


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of similar length, each with `queries` query and `keys` key positions, pads included."""

    sequences: slice  # indices in the groups' order
    queries: int
    keys: int
    padded: bool  # whether some sequence has fewer keys
    hidden_prefixes: dict[int, int]  # by layer that skips some prefix: where its staged rows begin
    size: int  # the number of sequences
    masks: dict[tuple[int | None, int | None, int], Tensor] = field(default_factory=dict)


class AttentionLayout:
    """Who attends to whom, for one packed batch; made once and used by every layer.

    `chunks`: of each sequence, in batch order; `cache`: with the cached ones' keys and values. Indices and bounds are
    put into `staging`, which must be committed before `attend`.
    """

    def __init__(
        self,
        chunks: Sequence[SequenceChunk],
        staging: StagingBuffer,
        *,
        causal: bool,
        device: torch.device,
        dtype: torch.dtype,
        cache: KeyValueCache | None = None,
    ) -> None:
        self._staging = staging
        self._causal = causal
        self._device = device
        self._on_cpu = device.type == "cpu"
        self._dtype = dtype
        self._cache = cache
        lengths = np.array([chunk.length for chunk in chunks])
        starts = np.cumsum(lengths) - lengths
        self._tokens = int(lengths.sum())
        whole = _whole_groups(chunks)
        self._decodes = decode_attention(chunks, cache, staging)
        decodes = [] if self._decodes is None else self._decodes.members
        groups = [*whole, *_cached_groups(chunks, frozenset(decodes)), *([decodes] if decodes else [])]
        order = [i for members in groups for i in members]
        hidden: list[int] = []
        self.groups: list[Group] = []
        for members in groups:
            self.groups.append(_group(chunks, members, self.groups, hidden))
        self._whole, self._cached = self.groups[: len(whole)], self.groups[len(whole) : len(groups) - bool(decodes)]

        self._query_sizes = [group.size * group.queries for group in self.groups]
        self._key_sizes = [group.size * group.keys for group in self._whole]
        self._cached_sizes = [group.size * group.keys for group in self._cached]
        self._parts: dict[str, tuple[Tensor, ...]] = {}

        earlier = np.array([before(chunks[i]) for i in order])
        staging.put(_BOUNDS, np.stack([earlier, earlier + lengths[order]]))
        if hidden:
            staging.put(_HIDDEN_PREFIXES, hidden)
        self._in_order = self._put_queries(lengths[order], starts[order])
        count = sum(map(len, whole))
        first, last = order[:count], order[count : len(chunks) - len(decodes)]
        self._keys_in_order = bool(first) and self._put_keys([chunks[i] for i in first], starts[first])
        if last:
            self._put_cache_rows([chunks[i] for i in last])
        self._only_decodes = len(decodes) == len(chunks)
        self._write: CacheWrites | None = None
        if cache is not None and (last or decodes) and not self._only_decodes:
            self._write = CacheWrites(chunks, starts, cache, staging)

    def _put_queries(self, own: NDArray[np.int64], starts: NDArray[np.int64]) -> bool:
        """Stages the token of each query position. Returns whether they are the tokens in batch order."""
        index, sequence = _positions(self.groups, [group.queries for group in self.groups])
        real = index < own[sequence]
        rows = starts[sequence] + np.where(real, index, 0)
        inverse = np.empty(self._tokens, dtype=np.int64)
        inverse[rows[real]] = np.flatnonzero(real)
        self._staging.put(_QUERIES, rows)
        self._staging.put(_INVERSE, inverse)
        return self._as_they_stand(rows)

    def _put_keys(self, chunks: Sequence[SequenceChunk], starts: NDArray[np.int64]) -> bool:
        """Stages the row of each key position of whole sequences. Returns whether they are the tokens in batch
        order."""
        prefix_start, prefix_stop = np.array([chunk.batch_prefix for chunk in chunks]).T
        prefix = prefix_stop - prefix_start
        seen = prefix + np.array([chunk.length for chunk in chunks])
        index, sequence = _positions(self._whole, [group.keys for group in self._whole])
        within = index - prefix[sequence]
        own = starts[sequence] + np.where(index < seen[sequence], within, 0)
        rows = np.where(within < 0, self._tokens + prefix_start[sequence] + index, own)
        self._staging.put(_KEYS, rows)
        return self._as_they_stand(rows)

    def _put_cache_rows(self, chunks: Sequence[SequenceChunk]) -> None:
        """Stages the cache row of each key position of cached sequences."""
        table = [_cache_rows(chunk) for chunk in chunks]
        seen = np.array([len(rows) for rows in table])
        index, sequence = _positions(self._cached, [group.keys for group in self._cached])
        first = np.cumsum(seen) - seen
        chosen = first[sequence] + np.where(index < seen[sequence], index, 0)
        self._staging.put(_CACHE_ROWS, np.concatenate(table)[chosen])

    def _as_they_stand(self, rows: NDArray[np.int64]) -> bool:
        return len(rows) == self._tokens and bool((rows == np.arange(self._tokens)).all())

    # ---- one layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """q: (tokens, heads, dim); k, v: (tokens + prefix rows, kv_heads, dim). Returns (tokens, heads, dim).

        Cached sequences' keys and values are written into the cache before. `window`: a query attends to keys
        fewer than so many positions away; None: to all.
        """
        # What saves an operation may sum in another order: training's gradients keep theirs.
        exact = torch.is_grad_enabled()
        in_order = self._in_order and not exact
        queries = iter(_split(q, self._query_sizes)) if in_order else self._gathered(q, _QUERIES, self._query_sizes)
        if self._decodes is not None and self._only_decodes:  # in order, and in the cache's own call
            return self._decodes(layer, q, (k, v), scaling, window)
        if self._write is not None:
            self._write(layer, k, v)
        keys, values = self._keys(layer, k, v, exact=exact)
        outs = []
        for group in (*self._whole, *self._cached):  # only a group's output is kept
            out = self._attend(group, layer, next(queries), next(keys), next(values), scaling, window, exact=exact)
            outs.append(out)
        if self._decodes is not None:
            outs.append(self._decodes(layer, next(queries), None, scaling, window))
        flat = outs[0] if len(outs) == 1 else torch.cat(outs)
        return flat if in_order else flat.index_select(0, self._staging[_INVERSE])

    def _keys(self, layer: int, k: Tensor, v: Tensor, *, exact: bool) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Keys and values of each group, (sequences * keys, kv_heads, dim)."""
        whole: tuple[Iterator[Tensor], ...] = iter(()), iter(())
        cached = whole
        if self._whole and self._keys_in_order and not exact:
            whole = tuple(iter(_split(t[: self._tokens], self._key_sizes)) for t in (k, v))
        elif self._whole:
            whole = tuple(self._gathered(t, _KEYS, self._key_sizes) for t in (k, v))
        if self._cached and self._cache is not None:
            if self._on_cpu:
                both = self._cache.keys[layer], self._cache.values[layer]
                cached = tuple(self._gathered(t, _CACHE_ROWS, self._cached_sizes) for t in both)
            else:  # in one launch
                rows = self._cache.entries[layer].index_select(1, self._staging[_CACHE_ROWS])
                cached = tuple(iter(_split(t, self._cached_sizes)) for t in rows.unbind(0))
        return chain(whole[0], cached[0]), chain(whole[1], cached[1])

    def _gathered(self, rows: Tensor, name: str, sizes: list[int]) -> Iterator[Tensor]:
        """The rows of each group. `sizes`: how many each has."""
        index = self._staging[name]
        if not self._on_cpu or len(sizes) == 1:
            return iter(_split(rows.index_select(0, index), sizes))
        if name not in self._parts:
            self._parts[name] = _split(index, sizes)
        # One by one, so that they stay in the CPU's caches.
        return (rows.index_select(0, part) for part in self._parts[name])

    def _attend(
        self,
        group: Group,
        layer: int,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        scaling: float | None,
        window: int | None,
        *,
        exact: bool,
    ) -> Tensor:
        """One call: q (sequences * queries, heads, dim), keys and values (sequences * keys, kv_heads, dim)."""
        b, n = group.size, group.queries
        heads, dim = q.shape[1:]
        kv_heads = keys.shape[1]
        folded = heads // kv_heads
        keys = keys.view(b, group.keys, kv_heads, dim).transpose(1, 2)
        values = values.view(b, group.keys, kv_heads, dim).transpose(1, 2)
        fold = folded > 1 and (not self._on_cpu or (n == 1 and not exact))
        if fold and not exact and folded * n <= _MAX_FOLDED:
            q = q.view(b, n, kv_heads, folded, dim).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, folded * n, dim)
            mask = self._mask(group, layer, window, folded)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling)
            out = out.view(b, kv_heads, folded, n, dim).permute(0, 3, 1, 2, 4)
            return out.reshape(b * n, heads, dim)
        if fold:
            keys, values = (t.unsqueeze(2).expand(-1, -1, folded, -1, -1).flatten(1, 2) for t in (keys, values))
        out = F.scaled_dot_product_attention(
            q.view(b, n, heads, dim).transpose(1, 2),
            keys,
            values,
            attn_mask=self._mask(group, layer, window, 1),
            scale=scaling,
            enable_gqa=folded > 1 and not fold,
        )
        return out.transpose(1, 2).reshape(b * n, heads, dim)

    # ---- masks, computed on the device from the staged arrays

    def _mask(self, group: Group, layer: int, window: int | None, folded: int) -> Tensor | None:
        """(B, 1, 1 or folded * Q, K), 0 or -inf; None where every query attends to all keys."""
        if window is not None and window >= group.keys:
            window = None
        hidden = group.hidden_prefixes.get(layer)
        causal = self._causal and group.queries > 1  # else the one query is the sequence's last row
        if not causal and window is None and hidden is None:
            return self._pads[group.sequences, :, :, : group.keys] if group.padded else None
        known = (window, hidden, folded)
        if known not in group.masks:
            group.masks[known] = self._make_mask(group, window, hidden, folded, causal=causal)
        return group.masks[known]

    @cached_property
    def _pads(self) -> Tensor:
        """(S, 1, 1, keys): -inf at pads, for all groups at once."""
        max_keys = max(group.keys for group in self.groups)
        mask = self._zeros(self.groups[-1].sequences.stop, 1, max_keys)
        seen = self._staging[_BOUNDS][1]
        return mask.masked_fill_(self._key_positions(max_keys) >= seen[:, None, None, None], float("-inf"))

    def _make_mask(
        self, group: Group, window: int | None, hidden_prefixes: int | None, folded: int, *, causal: bool
    ) -> Tensor:
        earlier, seen = self._staging[_BOUNDS][:, group.sequences, None, None].unbind(0)  # (B, 1, 1)
        keys = self._key_positions(group.keys)
        hidden = keys >= seen  # (B, 1, K)
        if causal or window is not None:
            queries = earlier + torch.arange(group.queries, device=self._device)[:, None]  # (B, Q, 1)
            if causal:
                hidden = hidden | (keys > queries)
            if window is not None:
                hidden = hidden | ((queries - keys).abs() >= window)
        if hidden_prefixes is not None:
            rows = self._staging[_HIDDEN_PREFIXES][hidden_prefixes : hidden_prefixes + group.size]
            hidden = hidden | (keys < rows[:, None, None])
        if folded > 1 and hidden.shape[1] > 1:
            hidden = hidden.repeat(1, folded, 1)
        return self._zeros(*hidden.shape).masked_fill_(hidden.unsqueeze(1), float("-inf"))

    def _key_positions(self, count: int) -> Tensor:
        return torch.arange(count, device=self._device)

    def _zeros(self, sequences: int, queries: int, keys: int) -> Tensor:
        """(sequences, 1, queries, keys). Rows are padded to a multiple of 8, as CUDA's kernels would copy
        other masks in every layer."""
        step = 8 if self._device.type == "cuda" else 1
        width = -(-keys // step) * step
        return torch.zeros((sequences, 1, queries, width), dtype=self._dtype, device=self._device)[..., :keys]


def _split(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    return (rows,) if len(sizes) == 1 else torch.split(rows, sizes)


def _cache_rows(chunk: SequenceChunk) -> NDArray[np.int64]:
    assert chunk.cache_rows is not None
    return chunk.cache_rows


def _prefix(chunk: SequenceChunk) -> int:
    """Rows of its prefix."""
    return chunk.batch_prefix[1] - chunk.batch_prefix[0] if chunk.cache_rows is None else chunk.cached_prefix


def hides_prefix(chunk: SequenceChunk) -> bool:
    """Whether it does not attend to its prefix in some layer."""
    return bool(chunk.left_out) and _prefix(chunk) > 0


def before(chunk: SequenceChunk) -> int:
    """The number of rows that a chunk attends to before its first token's."""
    return _prefix(chunk) if chunk.cache_rows is None else len(chunk.cache_rows) - chunk.length


def _whole_groups(chunks: Sequence[SequenceChunk]) -> list[list[int]]:
    """Whole sequences of similar length, by their index in the batch."""
    sizes = {i: (chunk.length, _prefix(chunk)) for i, chunk in enumerate(chunks) if chunk.cache_rows is None}
    groups: list[list[int]] = []
    shortest = (0, 0)
    for i in sorted(sizes, key=sizes.__getitem__):
        length, prefix = sizes[i]
        fits = length + prefix <= sum(shortest) * _GROWTH + _SLACK and length <= shortest[0] * _GROWTH + _SLACK
        if groups and fits:
            groups[-1].append(i)
        else:
            groups.append([i])
            shortest = sizes[i]
    return groups


def _cached_groups(chunks: Sequence[SequenceChunk], others: frozenset[int]) -> list[list[int]]:
    """Cached sequences with similar numbers of new tokens and of rows attended to, by their index in the batch; without
    `others`. Those with a single new token have no pads among their queries."""
    sizes = {
        i: (c.length, len(c.cache_rows)) for i, c in enumerate(chunks) if c.cache_rows is not None and i not in others
    }
    groups: list[list[int]] = []
    first_length = min_rows = max_rows = 0
    for i in sorted(sizes, key=sizes.__getitem__):
        length, rows = sizes[i]
        similar = length == first_length or (first_length > 1 and length <= first_length * _GROWTH + _SLACK)
        if groups and similar and max(max_rows, rows) <= min(min_rows, rows) * _CACHED_GROWTH + _CACHED_SLACK:
            groups[-1].append(i)
            min_rows, max_rows = min(min_rows, rows), max(max_rows, rows)
        else:
            groups.append([i])
            first_length, min_rows, max_rows = length, rows, rows
    return [sorted(members) for members in groups]  # in batch order, which may save gathering them


def _group(
    chunks: Sequence[SequenceChunk], members: Sequence[int], groups: Sequence[Group], hidden: list[int]
) -> Group:
    """The group of some sequences, after the previous groups. Prefix rows that a layer hides are added to `hidden`."""
    start = groups[-1].sequences.stop if groups else 0
    seen = [before(chunks[i]) + chunks[i].length for i in members]
    begins: dict[tuple[int, ...], int] = {}
    hidden_prefixes: dict[int, int] = {}
    for layer in frozenset[int]().union(*(chunks[i].left_out for i in members)):
        rows = tuple(_prefix(chunks[i]) if layer in chunks[i].left_out else 0 for i in members)
        if any(rows):
            if rows not in begins:
                begins[rows] = len(hidden)
                hidden.extend(rows)
            hidden_prefixes[layer] = begins[rows]
    return Group(
        sequences=slice(start, start + len(members)),
        queries=max(chunks[i].length for i in members),
        keys=max(seen),
        padded=min(seen) < max(seen),
        hidden_prefixes=hidden_prefixes,
        size=len(members),
    )


def _positions(groups: Sequence[Group], counts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The position and the sequence of each of a group's positions, for all groups."""
    each = np.repeat(counts, [group.size for group in groups])
    sequence = np.repeat(np.arange(len(each)), each)
    first = np.cumsum(each) - each
    return np.arange(len(sequence)) - first[sequence], sequence

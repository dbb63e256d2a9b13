"""Keys and values that stay between passes, and attention of new tokens over them.

A pass writes its tokens' keys and values into rows of the cache; every sequence says which rows it sees. Rows may
belong to several sequences at once: a task's prefix, or the beginning that two prompts share, is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# A group takes sequences that see up to this much more than its first: pads against the number of calls.
_GROWTH = 1.5
_SLACK = 32


class KeyValueCache:
    """`rows` rows for every layer, (rows, kv_heads, head_dim) each; nothing in them means anything until written."""

    def __init__(
        self, rows: int, layers: int, kv_shape: tuple[int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.keys = [torch.empty((rows, *kv_shape), device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.empty((rows, *kv_shape), device=device, dtype=dtype) for _ in range(layers)]

    @staticmethod
    def row_bytes(layers: int, kv_shape: tuple[int, int], dtype: torch.dtype) -> int:
        """Bytes of one row in all layers."""
        return 2 * layers * kv_shape[0] * kv_shape[1] * dtype.itemsize

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Puts (n, kv_heads, head_dim) into n rows."""
        self.keys[layer].index_copy_(0, rows, keys)
        self.values[layer].index_copy_(0, rows, values)


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences with as many new tokens, that see about as many rows. B sequences, Q new tokens, K rows each."""

    queries: Tensor  # (B*Q,) of the packed tokens
    rows: Tensor  # (B*K,) of the cache; pads repeat the sequence's first
    shape: tuple[int, int, int]
    places: NDArray[np.int64]  # (B, Q): among the rows that its sequence sees, each new token's own
    prefixes: NDArray[np.int64]  # (B,) rows at the beginning that are a prefix'
    left_out: tuple[
        frozenset[int], ...
    ]  # (B,) layers at which a sequence does not see its prefix; () where there are none
    # by the layer's window, and by who does not see its prefix
    masks: dict[tuple[int | None, tuple[bool, ...]], Tensor | None] = field(default_factory=dict)


class CachedLayout:
    """Who attends to which rows of the cache, for one pass over new tokens.

    `lengths`: new tokens of each sequence, in batch order. `rows`: by sequence the rows that it sees in their order;
    its new tokens' own are the last of them, and the first `prefixes` of them a prefix', which the layers `left_out` do
    not see.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        lengths: Sequence[int],
        rows: Sequence[NDArray[np.int64]],
        *,
        prefixes: Sequence[int] | None = None,
        left_out: Sequence[frozenset[int]] | None = None,
    ) -> None:
        prefixes, left_out = prefixes or [0] * len(lengths), left_out or [frozenset()] * len(lengths)
        self._cache = cache
        device, self._dtype = cache.keys[0].device, cache.keys[0].dtype
        written = np.concatenate([own[-length:] for own, length in zip(rows, lengths, strict=True)])
        self._written = torch.from_numpy(written).to(device)
        starts = np.cumsum([0, *lengths])
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], len(rows[i])))
        groups: list[list[int]] = []
        for i in order:
            if groups:
                first = groups[-1][0]
                if lengths[i] == lengths[first] and len(rows[i]) <= len(rows[first]) * _GROWTH + _SLACK:
                    groups[-1].append(i)
                    continue
            groups.append([i])
        self._groups: list[_Group] = []
        back = np.empty(int(starts[-1]), dtype=np.int64)
        done = 0
        for group in groups:
            q, k = lengths[group[0]], len(rows[group[-1]])
            seen = np.array([len(rows[i]) for i in group])
            padded = np.stack([np.concatenate([rows[i], np.full(k - len(rows[i]), rows[i][0])]) for i in group])
            queries = np.concatenate([np.arange(starts[i], starts[i] + q) for i in group])
            back[queries] = np.arange(done, done + len(queries))
            done += len(queries)
            self._groups.append(
                _Group(
                    torch.from_numpy(queries).to(device),
                    torch.from_numpy(padded.reshape(-1)).to(device),
                    (len(group), q, k),
                    seen[:, None] - q + np.arange(q)[None],
                    np.array([prefixes[i] for i in group]),
                    tuple(left_out[i] for i in group) if any(left_out) else (),
                )
            )
        self._back = torch.from_numpy(back).to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """Writes the new keys and values and attends: q (tokens, heads, dim), k and v (tokens, kv_heads, dim).

        Returns (tokens, heads, dim). `window`: a query sees the rows that are less than so many places away.
        """
        self._cache.write(layer, self._written, k, v)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        heads, dim = q.shape[1:]
        kv_heads = k.shape[1]
        folded = heads // kv_heads  # query heads that share keys stand as further queries of one head
        outs = []
        for group in self._groups:
            b, n, m = group.shape
            qg = q.index_select(0, group.queries)
            qg = qg.view(b, n, kv_heads, folded, dim).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, folded * n, dim)
            kg = keys.index_select(0, group.rows).view(b, m, kv_heads, dim).transpose(1, 2)
            vg = values.index_select(0, group.rows).view(b, m, kv_heads, dim).transpose(1, 2)
            out = F.scaled_dot_product_attention(
                qg, kg, vg, attn_mask=self._mask(group, layer, window, folded, q.device), scale=scaling
            )
            out = out.view(b, kv_heads, folded, n, dim).permute(0, 3, 1, 2, 4)
            outs.append(out.reshape(b * n, heads, dim))
        flat = outs[0] if len(outs) == 1 else torch.cat(outs)
        return flat.index_select(0, self._back)

    def _mask(self, group: _Group, layer: int, window: int | None, folded: int, device: torch.device) -> Tensor | None:
        """(B, 1, 1 or folded*Q, K), 0 or -inf; None where every new token sees all rows."""
        without = tuple(layer in layers for layers in group.left_out)
        if (window, without) in group.masks:
            return group.masks[window, without]
        _, n, m = group.shape
        keys = np.arange(m)[None, None]
        places = group.places[:, :, None]
        hidden = keys > places
        if window is not None:
            hidden = hidden | (places - keys >= window)
        if any(without):
            hidden = hidden | (keys < (group.prefixes * np.array(without))[:, None, None])
        mask: Tensor | None = None
        if hidden.any():
            mask = torch.zeros(hidden.shape, dtype=self._dtype)
            mask.masked_fill_(torch.from_numpy(hidden), float("-inf"))
            mask = (mask if n == 1 else mask.repeat(1, folded, 1)).unsqueeze(1).to(device)
        group.masks[window, without] = mask
        return mask

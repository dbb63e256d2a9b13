"""Pools many sequences of a pass together, each to one vector.

The formulae are sentence-transformers' own (its module Pooling), without pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone.staging import StagingBuffer
from manyhats.backbone.torch_internals import reduce_segments

_ONE_ROW = ("cls", "last")  # modes that take one row of each sequence


class PooledRows(NamedTuple):
    """A sequence's tokens, the rows `start` to `stop` of a pass, of which the first `skip` are excluded."""

    start: int
    stop: int
    skip: int


class PooledVectors:
    """The vectors of some sequences, those of several `modes` concatenated. Its indices are put into `staging`."""

    def __init__(
        self, staging: StagingBuffer, name: str, ranges: Sequence[PooledRows], modes: Sequence[str], total: int
    ) -> None:
        self._staging = staging
        self._name = name
        self._modes = modes
        first = np.array([one.start + one.skip for one in ranges], dtype=np.int64)
        stop = np.array([one.stop for one in ranges], dtype=np.int64)
        lengths = stop - first
        indices = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = indices + np.repeat(first, lengths)
        self._all = len(rows) == total and bool((rows == np.arange(total)).all())
        if not set(modes) <= set(_ONE_ROW):
            staging.put(f"{name} lengths", lengths)
            if not self._all:
                staging.put(f"{name} rows", rows)
        if "cls" in modes:
            staging.put(f"{name} cls", first)
        if "last" in modes:
            staging.put(f"{name} last", stop - 1)
        if "weightedmean" in modes:  # a token's weight is its index, whatever is left out before it
            weights = indices + np.repeat([one.skip for one in ranges], lengths) + 1
            staging.put(f"{name} weights", weights.astype(np.float32))
            sums = np.array([np.arange(s.skip + 1, s.stop - s.start + 1).sum() for s in ranges])
            staging.put(f"{name} sums", sums.astype(np.float32))

    def __call__(self, states: Tensor) -> Tensor:
        """(rows of the pass, width) to (sequences, modes * width)."""
        kept: Tensor | None = None
        if f"{self._name} lengths" in self._staging:
            kept = states if self._all else states.index_select(0, self._staging[f"{self._name} rows"])
        pooled = [self._pooled(states, kept, mode) for mode in self._modes]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)

    def _pooled(self, states: Tensor, kept: Tensor | None, mode: str) -> Tensor:
        if mode in _ONE_ROW:
            return states.index_select(0, self._staging[f"{self._name} {mode}"])
        assert kept is not None
        values = kept.float()
        lengths = self._staging[f"{self._name} lengths"]
        if mode == "max":
            return reduce_segments(values, lengths, "max").to(states.dtype)
        if mode == "weightedmean":
            values = values * self._staging[f"{self._name} weights"][:, None]
            sums = self._staging[f"{self._name} sums"]
        else:
            sums = lengths if mode == "mean" else lengths.sqrt()
        return (reduce_segments(values, lengths, "sum") / sums[:, None]).to(states.dtype)

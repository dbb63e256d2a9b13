"""The part of a sequence that one pass computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SequenceChunk(NamedTuple):
    """The tokens `ids`, at least one, of one sequence: all of them, or those that are new.

    `start`: how many of its tokens precede them; `virtual`: virtual tokens before its first ones, whose vectors are an
    adapter's; `position_offset`: added to its tokens' positions, but not to virtual tokens'. `left_out`: the layers at
    which it does not attend to its prefix.

    A cached chunk has `cache_rows`: all rows of the cache that the sequence attends to, in order. Its new tokens' own
    (and virtual ones') are the last of them, and the first `cached_prefix` a prefix'. Without them the chunk is the
    whole sequence; `batch_prefix` are then the rows (start, stop) of its prefix among those that actors append to the
    keys and values of the batch's tokens.
    """

    ids: Sequence[int]
    start: int = 0
    virtual: int = 0
    position_offset: int = 0
    cache_rows: NDArray[np.int64] | None = None
    cached_prefix: int = 0
    left_out: frozenset[int] = frozenset()
    batch_prefix: tuple[int, int] = (0, 0)
    type_ids: Sequence[int] = ()  # of each token; empty: all 0

    @property
    def length(self) -> int:
        """Rows of the batch: virtual tokens and tokens."""
        return self.virtual + len(self.ids)

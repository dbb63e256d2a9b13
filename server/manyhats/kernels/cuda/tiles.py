"""Tiles: the rows of segments, cut into pieces of one size, as the programs read them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows of a tile. The smaller is the least that a product takes; with the larger, weights are read less often where an
# adapter has many rows.
SMALL, LARGE = 16, 64
_ROWS_FOR_LARGE = 48  # of an adapter, on average

Tiles = NDArray[np.int32]


def most_tiles(rows: int, segments: int) -> int:
    """Tiles that so many rows take at most, in at most so many segments."""
    return rows // SMALL + min(segments, rows)


def tiles_of(segments: Tensor, *, at_least: int = 1) -> tuple[Tiles, int]:
    """The tiles of segments (n, 3): first row, rows, slot; and their size. Tiles without rows, which do nothing, follow
    where there are fewer than `at_least`: a launch has one at least, one that is captured the most of its replays."""
    start, length, slot = segments.numpy().T
    size = LARGE if int(length.sum()) > _ROWS_FOR_LARGE * len(segments) else SMALL
    count = -(-length // size)
    owner = np.repeat(np.arange(len(count)), count)
    within = (np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)) * size
    tiles = np.zeros((max(len(owner), at_least), 3), dtype=np.int32)
    own = tiles[: len(owner)]
    own[:, 0] = start[owner] + within
    own[:, 1] = np.minimum(length[owner] - within, size)
    own[:, 2] = slot[owner]
    return tiles, size


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy for which the host does not wait, where the device is CUDA."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda" or not torch.cuda.is_available():
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)

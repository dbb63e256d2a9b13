"""Low-rank pairs of several adapters as one padded batch of matrix products, where each adapter has few rows.

In a loop over adapters the calls then cost more than the arithmetic: always on a GPU and in half types (any product
takes oneDNN at least 30 us), and in float32 on a CPU where each adapter has only a few rows, as in decoding. The
matrices are stacked again in every call, so that nothing has to be updated when other adapters take part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.kernels.activations import activation
from manyhats.kernels.base import LowRank
from manyhats.kernels.segments import Segment, Segments, Table

_MIN_ADAPTERS = 3  # with fewer, the loop is faster
_MAX_ROWS_ON_CPU = 8  # of one adapter, in float32 on a CPU: with more, the loop is faster
_MAX_PADDING = 4  # padded rows, as a multiple of the real rows


class _Shape(NamedTuple):
    """What pairs must have in common to share a product: the sizes of their matrices, and the optional steps."""

    rank: int
    width: int
    out: int
    down_bias: bool
    up_bias: bool
    activation: str | None


class _Group(NamedTuple):
    """Pairs of one shape, and the indices of their rows (see `_row_indices`)."""

    shape: _Shape
    pairs: list[LowRank]
    pad: Tensor
    unpad: Tensor
    rows: Tensor


def add_padded(x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments) -> list[Segment]:
    """Adds the outputs of pairs for x (rows, in) to y (rows, out), where a padded product is faster than the loop.

    Returns the segments that remain to be computed.
    """
    if len(segments) < _MIN_ADAPTERS or torch.is_grad_enabled():
        return list(segments)
    groups, remaining = segments.prepared(table, lambda: _grouped(table, segments, x.device))
    for group in groups:
        _add(x, y, group)
    return remaining


def _grouped(table: Table[LowRank], segments: Segments, device: torch.device) -> tuple[list[_Group], list[Segment]]:
    """The groups of pairs that share a product, and the segments that remain."""
    remaining: list[Segment] = []
    by_shape: dict[_Shape, list[Segment]] = {}
    for segment in segments:
        pair = table[segment.slot]
        few = segment.stop - segment.start <= _MAX_ROWS_ON_CPU
        worthwhile = few or device.type != "cpu" or pair.down.dtype != torch.float32
        if pair.scale is not None or not worthwhile:
            remaining.append(segment)
            continue
        biases = pair.down_bias is not None, pair.up_bias is not None
        shape = _Shape(len(pair.down), pair.down.shape[1], pair.up.shape[1], *biases, pair.activation)
        by_shape.setdefault(shape, []).append(segment)
    groups: list[_Group] = []
    for shape, own in by_shape.items():
        lengths = [segment.stop - segment.start for segment in own]
        if len(own) < _MIN_ADAPTERS or max(lengths) * len(own) > _MAX_PADDING * sum(lengths):
            remaining += own
            continue
        indices = _row_indices(tuple((start, stop) for start, stop, _ in own), device)
        groups.append(_Group(shape, [table[segment.slot] for segment in own], *indices))
    return groups, remaining


def _add(x: Tensor, y: Tensor, group: _Group) -> None:
    shape, pairs, pad, unpad, rows = group
    xs = x.index_select(0, pad).view(len(pairs), -1, shape.width)
    down = torch.stack([pair.down for pair in pairs]).transpose(1, 2)
    if shape.down_bias:
        biases = torch.stack([pair.down_bias for pair in pairs if pair.down_bias is not None])
        low = torch.baddbmm(biases[:, None], xs, down)
    else:
        low = torch.bmm(xs, down)
    if shape.activation is not None:
        low = activation(shape.activation)(low)
    up = torch.stack([pair.up for pair in pairs])
    if shape.up_bias:
        biases = torch.stack([pair.up_bias for pair in pairs if pair.up_bias is not None])
        out = torch.baddbmm(biases[:, None], low, up)
    else:
        out = torch.bmm(low, up)
    y.index_add_(0, rows, out.view(-1, shape.out).index_select(0, unpad))


@lru_cache(maxsize=64)
def _row_indices(ranges: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Three index tensors: the rows of each pair, padded with its first row; among these, the real ones (the inverse of
    the padding); and the real rows themselves.

    Cached, because in most decode steps the number of rows of each adapter stays the same.
    """
    longest = max(stop - start for start, stop in ranges)
    pad = [row if row < stop else start for start, stop in ranges for row in range(start, start + longest)]
    unpad = [i * longest + row for i, (start, stop) in enumerate(ranges) for row in range(stop - start)]
    rows = [row for start, stop in ranges for row in range(start, stop)]
    host = torch.tensor([*pad, *unpad, *rows], dtype=torch.long)
    pinned = device.type == "cuda" and torch.cuda.is_available()
    on_device = host.pin_memory().to(device, non_blocking=True) if pinned else host.to(device)
    found = torch.split(on_device, [len(pad), len(unpad), len(rows)])
    return found[0], found[1], found[2]

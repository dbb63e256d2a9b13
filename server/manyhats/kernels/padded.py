"""Low-rank pairs of many adapters as one batch of matrices, where each adapter has a few rows.

A loop over adapters then costs more in calls than in numbers: on a GPU and in half types always (oneDNN takes 30 us for
a product of any size), else where each has a row or a few, as when many sequences generate. The matrices of a call are
put side by side for that call alone; nothing of it is kept, so nothing has to change when tasks do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.kernels.activations import activation
from manyhats.kernels.base import LowRank
from manyhats.kernels.segments import Segment, Segments, Table

_SEVERAL = 3  # adapters from which on it is faster
_FEW_ROWS = 8  # of one adapter, up to which it is on a CPU in float32
_MOST_PADS = 4  # times the real rows


class _Shape(NamedTuple):
    """Pairs that go together. `rank`, `width`, `out`: of the matrices; the rest says what they have besides."""

    rank: int
    width: int
    out: int
    down_bias: bool
    up_bias: bool
    activation: str | None


class _Group(NamedTuple):
    """Pairs of one shape, and where their rows are (see `_places`)."""

    shape: _Shape
    pairs: list[LowRank]
    read: Tensor
    back: Tensor
    rows: Tensor


def add_padded(x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments) -> list[Segment]:
    """Adds to y (rows, out) what some pairs make of x (rows, in), where that is faster than one by one.

    Returns the segments that are left to do.
    """
    if len(segments) < _SEVERAL or torch.is_grad_enabled():
        return list(segments)
    groups, left = segments.prepared(table, lambda: _grouped(table, segments, x.device))
    for group in groups:
        _add(x, y, group)
    return left


def _grouped(table: Table[LowRank], segments: Segments, device: torch.device) -> tuple[list[_Group], list[Segment]]:
    """The pairs that go together, and the segments that are left."""
    left: list[Segment] = []
    alike: dict[_Shape, list[Segment]] = {}
    for segment in segments:
        pair = table[segment.slot]
        dear = device.type != "cpu" or pair.down.dtype != torch.float32 or segment.stop - segment.start <= _FEW_ROWS
        if pair.scale is not None or not dear:
            left.append(segment)
            continue
        biases = pair.down_bias is not None, pair.up_bias is not None
        shape = _Shape(len(pair.down), pair.down.shape[1], pair.up.shape[1], *biases, pair.activation)
        alike.setdefault(shape, []).append(segment)
    groups: list[_Group] = []
    for shape, several in alike.items():
        lengths = [segment.stop - segment.start for segment in several]
        if len(several) < _SEVERAL or max(lengths) * len(several) > _MOST_PADS * sum(lengths):
            left += several
            continue
        places = _places(tuple((start, stop) for start, stop, _ in several), device)
        groups.append(_Group(shape, [table[segment.slot] for segment in several], *places))
    return groups, left


def _add(x: Tensor, y: Tensor, group: _Group) -> None:
    shape, pairs, read, back, rows = group
    xs = x.index_select(0, read).view(len(pairs), -1, shape.width)
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
    y.index_add_(0, rows, out.view(-1, shape.out).index_select(0, back))


@lru_cache(maxsize=64)
def _places(spans: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that each pair reads, pads repeating its first; where each real row stands among these; the real rows.

    They stay while as many rows belong to each adapter, as in most steps of generation.
    """
    most = max(stop - start for start, stop in spans)
    read = [row if row < stop else start for start, stop in spans for row in range(start, start + most)]
    back = [i * most + row for i, (start, stop) in enumerate(spans) for row in range(stop - start)]
    rows = [row for start, stop in spans for row in range(start, stop)]
    host = torch.tensor([*read, *back, *rows], dtype=torch.long)
    pinned = device.type == "cuda" and torch.cuda.is_available()
    there = host.pin_memory().to(device, non_blocking=True) if pinned else host.to(device)
    found = torch.split(there, [len(read), len(back), len(rows)])
    return found[0], found[1], found[2]

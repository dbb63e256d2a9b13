"""Compiles the kernels' programs before the first request: one that is compiled in the middle of a step keeps all
texts waiting for it, for a third of a second each.

A program is compiled for a type, for tiles of few rows and of many, for how many layers it computes at once, and for
how long their inputs are. All of these follow from the backbone, so each kind of call is made once, for rows of zeros.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.engine.fused_norms import FusedNorm
from manyhats.kernels.base import Bits, JoinedPair, Kernels, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.segments import Segment, Segments, Table
from manyhats.methods.slots import slot_tables

logger = logging.getLogger(__name__)

E = TypeVar("E")

_ROWS = (1, 64)  # of a task: few, and so many that its tiles are large
_OUTPUTS = (16, 64)  # of layers of an adapter's own: few, as a head has, and more
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # whose attention is divided into fewer and fewer parts
_CACHE_ROWS = 1 << 11  # which are enough to be divided


@torch.inference_mode()
def warm_up(backbone: Backbone) -> None:
    """Makes every kind of call that passes of the backbone may make; nothing where the kernels compile nothing.

    Raises what the device or the compiler raises.
    """
    kernels = slot_tables(backbone).kernels
    if not kernels.compiles:
        return
    begin = time.monotonic()
    for rows in _ROWS:
        _Calls(backbone, kernels, rows).make()
    if kernels.row_attention is not None and backbone.family.causal and kernels.row_attention.supports(backbone.dtype):
        _attend(backbone, kernels)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    logger.info("the kernels' programs are ready, after %.1f s", time.monotonic() - begin)


class _Calls:
    """Of one task with so many rows."""

    def __init__(self, backbone: Backbone, kernels: Kernels, rows: int) -> None:
        self._backbone, self._kernels, self._rows = backbone, kernels, rows
        self._segments = Segments([Segment(0, rows, 0)])

    def make(self) -> None:
        """All of them, each for all shapes."""
        backbone, kernels, segments = self._backbone, self._kernels, self._segments
        linear = {site.shape: site for site in backbone.linear.values()}
        hidden = backbone.hidden
        for out, width in dict.fromkeys([*linear, (hidden, hidden)]):
            kernels.low_rank(self._zeros(width), self._zeros(out), self._pair(out, width), segments)
        if kernels.joined_low_rank is not None:
            for shapes in self._joined():
                pairs = [JoinedPair(self._zeros(out), self._pair(out, width), segments) for out, width in shapes]
                kernels.joined_low_rank(self._zeros(shapes[0][1]), pairs, segments)
        kernels.scale_add(self._zeros(hidden), self._table(ScaleAdd(self._made(hidden))), segments)
        for width in dict.fromkeys(width for _, width in linear):
            for out in _OUTPUTS:
                own = self._table(Weight(self._made(out, width)))
                kernels.linear(self._zeros(width), self._zeros(out), own, segments)
        for (out, width), site in linear.items():
            x, y = self._zeros(width), self._zeros(out)
            change = Sparse(torch.zeros(1, dtype=torch.int32, device=backbone.device), self._made(1))
            if kernels.keeps_sparse:
                kernels.sparse_add(x, y, self._table(change), segments)
            if kernels.keeps_bits and not site.quantized:
                bits = torch.zeros((out * width + 7) // 8, dtype=torch.uint8, device=backbone.device)
                kernels.masked_linear(x, y, site.weight, site.bias, self._table(Bits(bits)), segments)
        for norm in backbone.norm.values():
            if isinstance(norm.plain, FusedNorm):
                norm.plain(self._zeros(len(norm.module.weight)))
        ids = torch.zeros(self._rows, dtype=torch.int64, device=backbone.device)
        kernels.lookup(ids, self._zeros(hidden), self._table(Rows(self._made(1, hidden))), segments)

    def _joined(self) -> Iterator[tuple[tuple[int, int], ...]]:
        """The shapes of layers that read the same rows, each combination once."""
        linear = self._backbone.linear
        yield from dict.fromkeys(tuple(linear[name].shape for name in names) for names in self._backbone.shared)

    def _made(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self._backbone.dtype, device=self._backbone.device)

    def _zeros(self, width: int) -> Tensor:
        return self._made(self._rows, width)

    def _pair(self, out: int, width: int) -> Table[LowRank]:
        return self._table(LowRank(self._made(1, width), self._made(1, out)))

    @staticmethod
    def _table(entry: E) -> Table[E]:
        table: Table[E] = Table()
        table.put(0, entry)
        return table


def _attend(backbone: Backbone, kernels: Kernels) -> None:
    """Steps of so many sequences, each with one row in the cache."""
    attention = kernels.row_attention
    assert attention is not None
    heads = int(backbone.model.config.num_attention_heads)
    kv_heads, dim = backbone.kv_shape

    def made(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=backbone.dtype, device=backbone.device)

    keys, values = made(2, _CACHE_ROWS, kv_heads, dim)
    for sequences in _SEQUENCES:
        bounds = torch.arange(sequences + 1, device=backbone.device)
        first = torch.zeros(sequences, dtype=torch.int64, device=backbone.device)
        new = made(sequences, kv_heads, dim), made(sequences, kv_heads, dim)
        attention(made(sequences, heads, dim), new, (keys, values), bounds[:-1], bounds, first, 0.5)

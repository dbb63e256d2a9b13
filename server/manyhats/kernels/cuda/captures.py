"""What makes launches capturable: tiles in a tensor that stays, and entries that each launch finds anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyhats.kernels.base import Staging
from manyhats.kernels.cuda.arena import Arena
from manyhats.kernels.cuda.launch import Launch
from manyhats.kernels.cuda.programs import rows
from manyhats.kernels.cuda.tiles import ELEMENTS, SMALL, OnDevice, Tiles, tiles_of
from manyhats.kernels.segments import FixedSegments, Segments, Table

_LEAST_SIZE = 64  # ranks and outputs that captured launches have programs for, so that few adapters need new ones


def captured_size(size: int) -> int:
    """The largest rank or number of outputs that captured launches serve where entries have had `size`."""
    return max(size, _LEAST_SIZE)


class CudaCaptures:
    """See `kernels.base.Captures`."""

    def __init__(self, arena_on: Callable[[torch.device], Arena], launch: Launch) -> None:
        self._arena_on = arena_on
        self._launch = launch
        self._arena: Arena | None = None

    def tiles(self, segments: Segments, rows: int) -> Tiles:
        """(rows, 3): there are no more tiles than rows."""
        return tiles_of(segments.host, at_least=rows, size=SMALL)[0]

    def fixed(self, tiles: Tensor) -> FixedSegments:
        """See `kernels.base.Captures`."""
        return FixedSegments(OnDevice(tiles, SMALL, captured=True), partial(self._copy, tiles))

    def update(self, tables: Collection[Table[Any]], staging: Staging, device: torch.device) -> Hashable:
        """Where the entries are, of which kind, how they begin, and the largest rank or number of outputs."""
        arena = self._arena = self._arena_on(device)
        arena.stage(tables, staging)
        views = [arena.view(table) for table in tables]
        return arena.generation, tuple(
            (view.first, view.kind, view.aligned, captured_size(view.size)) for view in views
        )

    def flush(self) -> None:
        """See `kernels.base.Captures`."""
        if self._arena is not None:
            self._arena.flush()

    def _copy(self, tiles: Tensor, source: Tensor, target: Tensor) -> None:
        width = target.shape[1]
        block = ELEMENTS // SMALL
        assert source.stride(1) == target.stride(1) == 1, "rows that are not contiguous"
        self._launch(
            rows.copy_rows, (len(tiles), -(-width // block)),
            source, target, tiles, width, source.stride(0), target.stride(0), ROWS=SMALL, BLOCK=block,
        )  # fmt: skip

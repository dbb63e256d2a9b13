"""The backend in Triton. Calls that the programs do not support go to the reference, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyhats.kernels.base import (
    Bits,
    Captures,
    FusedRows,
    JoinedLowRank,
    JoinedPair,
    LowRank,
    RmsNorm,
    RowAttention,
    Rows,
    ScaleAdd,
    Sparse,
    Stage,
    Staging,
    Weight,
)
from manyhats.kernels.cuda import entries
from manyhats.kernels.cuda.arena import Arena
from manyhats.kernels.cuda.captures import CudaCaptures, captured_size
from manyhats.kernels.cuda.entries import Kind
from manyhats.kernels.cuda.launch import Launch, launch
from manyhats.kernels.cuda.programs import low_rank, products, rows, sparse
from manyhats.kernels.cuda.rms_norm import CudaRmsNorm
from manyhats.kernels.cuda.row_attention import CachedRowAttention
from manyhats.kernels.cuda.tiles import ELEMENTS, OnDevice, tiles_of, to_device
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segments, Table

logger = logging.getLogger(__name__)

_STEP = 128  # bytes of a product's inputs, of a step
_OUTPUTS = 64  # of a product's program; where the widest layer has no more than 16, those
_RANKS = 32  # of a low-rank pair's program: fewer would be another program to compile
_LEAST = 16  # rows, columns and inputs of a product
_LONG = 1024  # inputs for each of the parts that a low-rank pair's sum is divided into: not for each batch its own
_MOST_PARTS = 4
_MOST_SITES = 3  # of joined pairs
_CHANGES = 32  # of a sparse difference, of a step


class _Call(NamedTuple):
    """What all programs take. `grid`: how many tiles; `size`: rows of one; `most`: the largest rank or number of
    outputs that the table has had; `aligned`: see `kernels.cuda.programs`."""

    tiles: Tensor
    structs: Tensor
    grid: int
    size: int
    most: int
    aligned: bool


class CudaKernels:
    """See `kernels.base.Kernels`. For float32, bfloat16 and float16, accumulating in float32.

    A call is one launch, and low-rank pairs, of one site or joined, two, whatever the number of tasks. The reference
    computes calls with gradients, of other types, with vectors that are not contiguous, and those whose table has an
    entry that the programs do not support, such as one with a rare activation. That depends on the whole table, so
    that a task's outputs do not depend on the other tasks in a batch.

    `launch`: another one in tests, which counts.
    """

    name = "cuda"
    keeps_bits = True
    keeps_sparse = True
    compiles = True
    fused_rows: FusedRows | None = None

    def __init__(self, launch: Launch = launch) -> None:
        self._launch = launch
        self._reference = Reference()
        self._arena: Arena | None = None
        self._numbers = count()
        self._left: set[str] = set()
        self.stage: Stage | None = self._stage
        self.captures: Captures | None = CudaCaptures(self._arena_on, launch)
        self.joined_low_rank: JoinedLowRank | None = self._joined_low_rank
        self.row_attention: RowAttention | None = CachedRowAttention(launch)
        self.rms_norm: RmsNorm | None = CudaRmsNorm(launch)

    @property
    def table_bytes(self) -> int:
        return 0 if self._arena is None else self._arena.nbytes

    def low_rank(
        self, x: Tensor, y: Tensor, table: Table[LowRank], segments: Segments, row_scale: Tensor | None = None
    ) -> None:
        fits = _fit(x, y) and (
            row_scale is None
            or (row_scale.dtype is x.dtype and row_scale.shape == (len(x), 1) and _is_here(row_scale, x))
        )
        call = self._call("low_rank", table, segments, entries.low_rank_kind(x, y), fits=fits)
        if call is None:
            self._reference.low_rank(x, y, table, segments, row_scale)
        else:
            self._pairs(x, [y], [call], row_scale)

    def _joined_low_rank(self, x: Tensor, pairs: Sequence[JoinedPair], segments: Segments) -> None:
        """See `kernels.base.JoinedLowRank`."""
        calls: list[_Call] = []
        for y, table, _ in pairs[:_MOST_SITES]:
            call = self._call("low_rank", table, segments, entries.low_rank_kind(x, y), fits=_fit(x, y))
            if call is not None:
                calls.append(call)
        if len(calls) == len(pairs):
            self._pairs(x, [pair.y for pair in pairs], calls)
            return
        for y, table, own in pairs:
            self.low_rank(x, y, table, own)

    def _pairs(self, x: Tensor, ys: list[Tensor], calls: list[_Call], row_scale: Tensor | None = None) -> None:
        """The low-rank pairs of up to three sites; `calls` have the same tiles."""
        (length, width), sites, call = x.shape, len(ys), calls[0]
        ranks = max(_RANKS, *(one.most for one in calls))
        parts = min(1 << max(width // _LONG, 1).bit_length() - 1, _MOST_PARTS)
        low = torch.empty((sites, parts, length, ranks), dtype=torch.float32, device=x.device)
        low_site, low_part, low_row, _ = low.stride()
        aligned = all(one.aligned for one in calls)
        sizes = {"ROWS": call.size, "RANKS": _RANKS, "PARTS": parts, "SITES": sites, "ALIGNED": aligned}
        blocks = sum(-(-y.shape[1] // _OUTPUTS) for y in ys)
        # What belongs to sites that there are not is None, so that nothing is looked up and passed for it.
        none = (None,) * (_MOST_SITES - sites)
        structs, slots = (*(one.structs for one in calls), *none), (*(len(one.structs) for one in calls), *none)
        self._launch(
            low_rank.shrink, (call.grid, sites * (ranks // _RANKS), parts),
            x, low, call.tiles, *structs, *slots, width, x.stride(0), low_row, low_part, low_site,
            BLOCK=_STEP // x.element_size(), **sizes,
        )  # fmt: skip
        self._launch(
            low_rank.expand, (call.grid, blocks),
            low, *ys, *none, call.tiles, *structs, *slots, row_scale, *(y.shape[1] for y in ys), *none,
            low_row, low_part, low_site, *(y.stride(0) for y in ys), *none,
            None if row_scale is None else row_scale.stride(0),
            BLOCK=_OUTPUTS, SCALED=row_scale is not None, **sizes,
        )  # fmt: skip

    def scale_add(self, y: Tensor, table: Table[ScaleAdd], segments: Segments) -> None:
        fits = y.dim() in (2, 3) and y.stride(-1) == 1
        call = self._call("scale_add", table, segments, entries.scale_add_kind(y), fits=fits)
        if call is None:
            self._reference.scale_add(y, table, segments)
            return
        width = y.shape[-1]
        heads, step = (y.shape[1], y.stride(1)) if y.dim() == 3 else (1, 0)
        block = ELEMENTS // call.size
        self._launch(
            rows.scale_add, (call.grid, -(-width // block), heads),
            y, call.tiles, call.structs, width, y.stride(0), step, ROWS=call.size, BLOCK=block,
        )  # fmt: skip

    def linear(self, x: Tensor, y: Tensor, table: Table[Weight], segments: Segments) -> None:
        call = self._call("linear", table, segments, entries.linear_kind(x), fits=_fit(x, y))
        if call is None:
            self._reference.linear(x, y, table, segments)
            return
        most = min(call.most, y.shape[1])
        outputs = _LEAST if most <= _LEAST else _OUTPUTS
        self._launch(
            products.linear, (call.grid, -(-most // outputs)),
            x, y, call.tiles, call.structs, x.shape[1], y.shape[1], x.stride(0), y.stride(0),
            ROWS=call.size, OUTPUTS=outputs, BLOCK=_STEP // x.element_size(), ALIGNED=call.aligned,
        )  # fmt: skip

    def masked_linear(
        self, x: Tensor, y: Tensor, base: Tensor, bias: Tensor | None, table: Table[Bits], segments: Segments
    ) -> None:
        width, out = x.shape[1], y.shape[1]
        fits = _fit(x, y) and base.shape == (out, width) and base.dtype is x.dtype and _is_here(base, x)
        fits = fits and (bias is None or (bias.dtype is x.dtype and bias.is_contiguous() and _is_here(bias, x)))
        call = self._call("masked_linear", table, segments, entries.masked_linear_kind(x, y), fits=fits)
        if call is None:
            self._reference.masked_linear(x, y, base, bias, table, segments)
            return
        self._launch(
            products.masked_linear, (call.grid, -(-out // _OUTPUTS)),
            x, y, base, bias, call.tiles, call.structs, width, out, x.stride(0), y.stride(0), *base.stride(),
            ROWS=call.size, OUTPUTS=_OUTPUTS, BLOCK=_STEP // x.element_size(), BIASED=bias is not None,
        )  # fmt: skip

    def lookup(self, ids: Tensor, y: Tensor, table: Table[Rows], segments: Segments) -> None:
        fits = ids.dtype is torch.int64 and ids.is_contiguous() and _is_here(ids, y) and y.stride(1) == 1
        call = self._call("lookup", table, segments, entries.lookup_kind(y), fits=fits)
        if call is None:
            self._reference.lookup(ids, y, table, segments)
            return
        width = y.shape[1]
        block = ELEMENTS // call.size
        self._launch(
            rows.lookup, (call.grid, -(-width // block)),
            ids, y, call.tiles, call.structs, width, y.stride(0), ROWS=call.size, BLOCK=block,
        )  # fmt: skip

    def sparse_add(self, x: Tensor, y: Tensor, table: Table[Sparse], segments: Segments) -> None:
        call = self._call("sparse_add", table, segments, entries.sparse_add_kind(x), fits=_fit(x, y))
        if call is None:
            self._reference.sparse_add(x, y, table, segments)
            return
        out = y.shape[1]
        self._launch(
            sparse.sparse_add, (call.grid, -(-out // _OUTPUTS)),
            x, y, call.tiles, call.structs, x.shape[1], out, x.stride(0), y.stride(0),
            ROWS=call.size, OUTPUTS=_OUTPUTS, BLOCK=_CHANGES,
        )  # fmt: skip

    # ---- what is on the device

    def _stage(
        self, segments: Sequence[Segments], tables: Collection[Table[Any]], staging: Staging, device: torch.device
    ) -> None:
        """See `kernels.base.Stage`."""
        self._arena_on(device).stage(tables, staging)
        current = frozenset(map(id, tables))
        for own in segments:
            array, size = tiles_of(own.host)
            name = f"kernels.tiles.{next(self._numbers)}"
            staging.put(name, array)
            own.on_device = OnDevice(None, size, current, (staging, name))

    def _arena_on(self, device: torch.device) -> Arena:
        """The arena, on the device where it is needed first: a backend is one backbone's."""
        if self._arena is None:
            self._arena = Arena(device)
        return self._arena

    def _call(self, name: str, table: Table[Any], segments: Segments, kind: Kind, *, fits: bool) -> _Call | None:
        """What the programs take; None where they do not support the operands, `kind` and `fits`, or an entry."""
        device: torch.device = kind[1]  # type: ignore[assignment]
        arena = self._arena_on(device)
        own = self._tiles(segments, device)
        view = table.struct_array if own.captured or id(table) in own.tables else arena.view(table)
        if not fits or view.kind != kind or arena.device != device or torch.is_grad_enabled():
            if not torch.is_grad_enabled() and name not in self._left:
                self._left.add(name)
                logger.warning("'%s' is left to the reference, task by task: %s", name, _why(view.kind, kind, fits))
            return None
        assert own.tiles is not None
        if own.captured:  # `captures.flush` came before
            return _Call(
                own.tiles, arena.structs(view), len(own.tiles), own.size, captured_size(view.size), view.aligned
            )
        arena.flush()
        return _Call(own.tiles, arena.structs(view), len(own.tiles), own.size, view.size, view.aligned)

    def _tiles(self, segments: Segments, device: torch.device) -> OnDevice:
        """The segments' tiles: from the pass's staging buffer, else after a copy of their own."""
        own: OnDevice | None = segments.on_device
        if own is None:
            array, size = tiles_of(segments.host)
            own = segments.on_device = OnDevice(to_device(array, device), size)
        elif own.staged is not None:
            staging, name = own.staged
            own = segments.on_device = OnDevice(staging[name], own.size, own.tables)
        return own


def _fit(x: Tensor, y: Tensor) -> bool:
    """Whether the programs can read and write the rows of x (rows, in) and y (rows, out)."""
    return y.dtype is x.dtype and len(y) == len(x) and x.stride(1) == 1 and y.stride(1) == 1 and _is_here(y, x)


def _is_here(tensor: Tensor, other: Tensor) -> bool:
    return tensor.device == other.device


def _why(found: Kind | None, kind: Kind, fits: bool) -> str:
    if not fits:
        return "its operands are not contiguous, or of several types"
    if found is None:
        return "an entry is not supported, or entries differ"
    return f"the entries are for {found[1:]}, and the operands have {kind[1:]}"

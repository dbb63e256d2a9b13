"""Operands of the kernels, and their comparison with the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from manyhats.kernels.base import Bits, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor

WIDTH, OUT = 37, 83  # multiples of nothing
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
SLOTS = (5, 0, 3, 9, 1)
# One row or a few of each, as in generation, and many of one; one without rows, and rows that belong to none.
SHORT = Segments([Segment(1, 2, 5), Segment(2, 5, 0), Segment(5, 5, 3), Segment(5, 26, 9), Segment(28, 30, 1)])
LONG = Segments([Segment(0, 90, 5), Segment(93, 160, 9)])  # in tiles of another size
NOBODY = Segments([])


def copy_of(segments: Segments) -> Segments:
    """The same, of which no backend knows anything yet."""
    return Segments(list(segments))


class Made:
    """Random tensors of one type on one device."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int = 7) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.dtype, self.device = dtype, device

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self._generator) * scale).to(self.dtype).to(self.device)

    def rows(self, segments: Segments, width: int, apart: int = 3) -> Tensor:
        """Rows of a batch, which are not adjacent in memory."""
        total = max([stop for _, stop, _ in segments], default=0) + 4
        return self(total, width + apart)[:, :width]

    def bits(self, out: int, width: int) -> Tensor:
        """A mask, in bytes."""
        keep = torch.rand(out * width, generator=self._generator) < 0.6
        padded = torch.nn.functional.pad(keep.to(torch.uint8), (0, -(out * width) % 8)).view(-1, 8)
        return (padded * 2 ** torch.arange(8)).sum(1).to(torch.uint8).to(self.device)


def table_of(entry: Callable[[int], Any]) -> Table[Any]:
    """A table with an entry in each of the slots; `entry(i)` makes the i-th."""
    table: Table[Any] = Table()
    for i, slot in enumerate(SLOTS):
        table.put(slot, entry(i))
    return table


def pair(made: Made, rank: int, activation: str | None = None, *, biases: bool = False, scale: Any = None) -> LowRank:
    """A low-rank pair between `WIDTH` and `OUT`."""
    down, up = made(rank, WIDTH, scale=0.2), made(rank, OUT, scale=0.2)
    return LowRank(down, up, made(rank) if biases else None, made(OUT) if biases else None, activation, scale)


def wide(value: Any) -> Any:
    """A tensor, an entry or a table in float64; indices and bits stay what they are."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (LowRank, ScaleAdd, Weight, Bits, Sparse, Rows)):
        return type(value)(*map(wide, value))
    if isinstance(value, Table):
        made: Table[Any] = Table()
        for slot, entry in enumerate(value.entries):
            if entry is not None:
                made.put(slot, wide(entry))
        return made
    return value


def check(kernels: Any, operation: str, given: tuple[Any, ...], y: Tensor, segments: Segments, **more: Any) -> None:
    """`operation` of the kernels equals the reference's within the type's rounding; see `error_of`."""
    error = error_of(kernels, operation, given, y, segments, **more)
    assert error < CLOSE[y.dtype], error


def error_of(kernels: Any, operation: str, given: tuple[Any, ...], y: Tensor, segments: Segments, **more: Any) -> float:
    """The relative error of `operation` in the segments' rows, to the reference in float64; that it leaves all others
    is asserted. `given`: its arguments before y, or in place of it None and then those behind it."""
    before, expected = y.clone(), wide(y)
    place = given.index(None)

    def arguments(convert: Callable[[Any], Any], out: Tensor) -> list[Any]:
        return [*map(convert, given[:place]), out, *map(convert, given[place + 1 :])]

    getattr(Reference(), operation)(*arguments(wide, expected), segments, **{k: wide(v) for k, v in more.items()})
    getattr(kernels, operation)(*arguments(lambda value: value, y), segments, **more)
    inside = torch.zeros(len(y), dtype=torch.bool)
    for start, stop, _ in segments:
        inside[start:stop] = True
    assert torch.equal(y[~inside].cpu().nan_to_num(7.0), before[~inside].cpu().nan_to_num(7.0))
    if not inside.any():
        return 0.0
    got, wanted = wide(y)[inside], expected[inside]
    known = ~wanted.isnan()  # of layers of different widths not all columns are written
    assert torch.equal(got.isnan(), wanted.isnan())
    return float((got - wanted)[known].norm() / wanted[known].norm())

"""Whether the programs do on a device what the reference does there: every operation, on a few rows of three adapters.

A compiler, a driver or a device that they were never tried on may refuse them, or compile them wrongly; then the
reference serves, and the log says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manyhats.kernels.base import Bits, JoinedPair, Kernels, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.cuda.backend import CudaKernels
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segment, Segments, Table

_WIDTH, _OUT, _LENGTH = 48, 32, 23
_PLACES = (Segment(1, 2, 2), Segment(2, 20, 0), Segment(21, 23, 5))
_JOINED = "joined_low_rank"
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of a difference, to the largest value
_CLOSE_TF32 = 5e-3


def fault(device: torch.device, make: Callable[[], Kernels] = CudaKernels) -> str | None:
    """What is wrong with the programs on the device; None where they agree with the reference."""
    with torch.inference_mode():
        for dtype, close in _CLOSE.items():
            if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
                close = _CLOSE_TF32
            for name, (arguments, y) in _calls(device, dtype).items():
                try:
                    got, wanted = (_result(kernels, name, arguments, y) for kernels in (make(), Reference()))
                except Exception as error:  # whatever the compiler, the driver or the device raises
                    return f"'{name}' fails in {dtype}: {type(error).__name__}: {error}".splitlines()[0]
                if not float((got - wanted).abs().max()) <= close * float(wanted.abs().max()):  # not a number too
                    return f"'{name}' in {dtype} differs from the reference"
    return None


def _result(kernels: Kernels, name: str, arguments: tuple[Any, ...], y: Tensor) -> Tensor:
    out = y.clone()
    if name == _JOINED:
        return _joined(kernels, arguments, y).double().cpu()
    getattr(kernels, name)(*(out if one is None else one for one in arguments), Segments(_PLACES))
    return out.double().cpu()


def _joined(kernels: Kernels, arguments: tuple[Any, ...], y: Tensor) -> Tensor:
    """The outputs of pairs at several sites, side by side, of which the last has no entry of the first adapter."""
    x, *tables = arguments
    own = [Segments(_PLACES)] * (len(tables) - 1) + [Segments(_PLACES[1:])]
    pairs = [JoinedPair(y.clone(), table, segments) for table, segments in zip(tables, own, strict=True)]
    if kernels.joined_low_rank is None:
        for pair in pairs:
            kernels.low_rank(x, *pair)
    else:
        kernels.joined_low_rank(x, pairs, Segments(_PLACES))
    return torch.cat([pair.y for pair in pairs], 1)


def _calls(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[tuple[Any, ...], Tensor]]:
    """By operation the arguments before the segments, and what they change, which stands among them as None."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    def table(entry: Callable[[int], Any]) -> Table[Any]:
        found: Table[Any] = Table()
        for i, place in enumerate(_PLACES):
            found.put(place.slot, entry(i))
        return found

    def bits() -> Tensor:
        return torch.randint(256, (_OUT * _WIDTH // 8,), generator=generator, dtype=torch.uint8).to(device)

    def pair(i: int) -> LowRank:
        rank = 3 + 14 * i
        return LowRank(made(rank, _WIDTH), made(rank, _OUT), made(rank), made(_OUT), ("relu", "gelu", None)[i], made(1))

    x, y = made(_LENGTH, _WIDTH), made(_LENGTH, _OUT)
    tables = [table(pair) for _ in range(3)]
    tables[-1].drop(_PLACES[0].slot)
    indices = torch.arange(5, _OUT * _WIDTH, 13, dtype=torch.int32, device=device)
    own = torch.tensor([1, 4, 6], device=device)
    ids = torch.arange(_LENGTH, device=device) % 8
    return {
        "low_rank": ((x, None, table(pair)), y),
        _JOINED: ((x, *tables), y),
        "scale_add": ((None, table(lambda i: ScaleAdd(made(_OUT), made(_OUT) if i else None))), y),
        "linear": ((x, None, table(lambda i: Weight(made(_OUT - i, _WIDTH), made(_OUT - i)))), y),
        "masked_linear": ((x, None, made(_OUT, _WIDTH), made(_OUT), table(lambda i: Bits(bits()))), y),
        "lookup": ((ids, None, table(lambda i: Rows(made(3, _OUT), own) if i else Rows(made(8, _OUT)))), y),
        "sparse_add": ((x, None, table(lambda i: Sparse(indices, made(len(indices))))), y),
    }

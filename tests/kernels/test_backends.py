"""Every backend that works here, against the formulae in float64: all of its operations, and nothing but their rows."""

from __future__ import annotations

import pytest
import torch
from manyhats.kernels.activations import activation
from manyhats.kernels.base import Bits, Kernels, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.registry import BACKENDS, choose, described
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor

CPU = torch.device("cpu")
READY = [name for name, state in described(CPU).items() if state == "ready"]
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
TOTAL, WIDTH, OUT = 40, 24, 20
# A row or a few of each, as in generation, and many of one; some rows belong to none.
PLACES = [(1, 2), (2, 4), (4, 5), (6, 9), (9, 10), (10, 12), (14, 39)]


class Made:
    """Random tensors of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(7)
        self._dtype = dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._dtype)


def segments() -> Segments:
    slots = [5, 0, 3, 9, 1, 8, 2]
    return Segments([Segment(*place, slot) for place, slot in zip(PLACES, slots, strict=True)])


def check(got: Tensor, wanted: Tensor, before: Tensor, dtype: torch.dtype) -> None:
    """The segments' rows are right within the type's rounding, all others as they were."""
    inside = torch.zeros(TOTAL, dtype=torch.bool)
    for start, stop in PLACES:
        inside[start:stop] = True
    error = (got[inside].double() - wanted[inside]).norm() / wanted[inside].norm()
    assert float(error) < CLOSE[dtype]
    assert torch.equal(got[~inside], before[~inside])


@pytest.fixture(params=READY)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return choose(CPU, request.param)


def test_the_reference_is_always_there() -> None:
    assert "reference" in READY
    assert list(BACKENDS)[-1] == "reference"


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("function", [None, "relu", "gelu"])
@torch.inference_mode()
def test_low_rank(kernels: Kernels, dtype: torch.dtype, function: str | None) -> None:
    made, table = Made(dtype), Table()
    x, before = made(TOTAL, WIDTH), made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        rank = 3 if i < 4 else 5  # some of one shape
        pair = LowRank(made(rank, WIDTH) / 4, made(rank, OUT) / 4)
        if function is not None:
            pair = pair._replace(
                down_bias=made(rank), up_bias=made(OUT), activation=function, scale=2.0 if i == 5 else None
            )
        table.put(slot, pair)
        low = x[start:stop].double() @ pair.down.double().T
        if function is not None:
            low = activation(function)(low + pair.down_bias.double())
        out = low @ pair.up.double() + (0 if pair.up_bias is None else pair.up_bias.double())
        wanted[start:stop] += out * (pair.scale or 1.0)
    y = before.clone()
    kernels.low_rank(x, y, table, segments())
    check(y, wanted, before, dtype)


@torch.inference_mode()
def test_a_low_rank_pair_that_is_not_finite_stays_with_its_rows(kernels: Kernels) -> None:
    made, table = Made(torch.float32), Table()
    for i, (_, _, slot) in enumerate(segments()):
        table.put(slot, LowRank(made(3, WIDTH), made(3, OUT) * (float("nan") if i == 3 else 1.0)))
    y = made(TOTAL, OUT)
    kernels.low_rank(made(TOTAL, WIDTH), y, table, segments())
    assert torch.isfinite(y).all(1).logical_not().nonzero()[:, 0].tolist() == list(range(*PLACES[3]))


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_rows_weigh_what_is_added(kernels: Kernels, dtype: torch.dtype) -> None:
    made, table = Made(dtype), Table()
    x, before, weights = made(TOTAL, WIDTH), made(TOTAL, OUT), made(TOTAL, 1)
    wanted = before.double().clone()
    for start, stop, slot in segments():
        pair = LowRank(made(2, WIDTH) / 4, made(2, OUT) / 4)
        table.put(slot, pair)
        out = x[start:stop].double() @ pair.down.double().T @ pair.up.double()
        wanted[start:stop] += out * weights[start:stop].double()
    y = before.clone()
    kernels.low_rank(x, y, table, segments(), weights)
    check(y, wanted, before, dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_scale_add(kernels: Kernels, dtype: torch.dtype) -> None:
    made, table = Made(dtype), Table()
    before = made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        entry = ScaleAdd(made(OUT) if i % 2 else None, made(OUT) if i % 3 else None)
        entry = entry if i else ScaleAdd(made(OUT))
        table.put(slot, entry)
        rows = wanted[start:stop] * (1 if entry.gain is None else entry.gain.double())
        wanted[start:stop] = rows + (0 if entry.offset is None else entry.offset.double())
    y = before.clone()
    kernels.scale_add(y, table, segments())
    check(y, wanted, before, dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_linear(kernels: Kernels, dtype: torch.dtype) -> None:
    made, table = Made(dtype), Table()
    x, before = made(TOTAL, WIDTH), made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        out = OUT - i
        layer = Weight(made(out, WIDTH), made(out) if i % 2 else None)
        table.put(slot, layer)
        bias = 0 if layer.bias is None else layer.bias.double()
        wanted[start:stop, :out] = x[start:stop].double() @ layer.weight.double().T + bias
    y = before.clone()
    kernels.linear(x, y, table, segments())
    check(y, wanted, before, dtype)


@torch.inference_mode()
def test_some_outputs_alone(kernels: Kernels) -> None:
    made, table = Made(torch.float32), Table()
    x, before = made(TOTAL, WIDTH), made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        layer = Weight(made(2, WIDTH), None, torch.tensor([i, 15]))
        table.put(slot, layer)
        wanted[start:stop, layer.outputs] = x[start:stop].double() @ layer.weight.double().T
    y = before.clone()
    kernels.linear(x, y, table, segments())
    check(y, wanted, before, torch.float32)


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_masked_linear(kernels: Kernels, dtype: torch.dtype) -> None:
    made, table = Made(dtype), Table()
    x, before, base, bias = made(TOTAL, WIDTH), made(TOTAL, OUT), made(OUT, WIDTH), made(OUT)
    wanted = before.double().clone()
    for start, stop, slot in segments():
        keep = made(OUT, WIDTH) > 0
        powers = 2 ** torch.arange(8)
        table.put(slot, Bits((keep.view(-1, 8) * powers).sum(1).to(torch.uint8)))
        wanted[start:stop] = x[start:stop].double() @ (base.double() * keep).T + bias.double()
    y = before.clone()
    kernels.masked_linear(x, y, base, bias, table, segments())
    check(y, wanted, before, dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_sparse_add(kernels: Kernels, dtype: torch.dtype) -> None:
    made, table = Made(dtype), Table()
    x, before = made(TOTAL, WIDTH), made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        indices = torch.arange(i, OUT * WIDTH, 11)
        entry = Sparse(indices.to(torch.int32), made(len(indices)))
        table.put(slot, entry)
        dense = torch.zeros(OUT * WIDTH, dtype=torch.float64).index_add(0, indices, entry.values.double())
        wanted[start:stop] += x[start:stop].double() @ dense.view(OUT, WIDTH).T
    y = before.clone()
    kernels.sparse_add(x, y, table, segments())
    check(y, wanted, before, dtype)


@torch.inference_mode()
def test_lookup(kernels: Kernels) -> None:
    made, table = Made(torch.float32), Table()
    ids, before = torch.arange(TOTAL) % 10, made(TOTAL, OUT)
    wanted = before.double().clone()
    for i, (start, stop, slot) in enumerate(segments()):
        own = torch.tensor([2, 4, 7]) if i % 2 else None
        rows = Rows(made(3 if i % 2 else 10, OUT), own)
        table.put(slot, rows)
        for row in range(start, stop):
            if own is None:
                wanted[row] = rows.rows[ids[row]].double()
            elif int(ids[row]) in own.tolist():
                wanted[row] = rows.rows[own.tolist().index(int(ids[row]))].double()
    y = before.clone()
    kernels.lookup(ids, y, table, segments())
    check(y, wanted, before, torch.float32)

"""Masks over a weight in C, in every variant that the processor runs, against float64."""

from __future__ import annotations

import pytest
import torch
from manyhats.kernels.base import Bits
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.segments import Segments, Table
from manyhats.methods.mask import pack_bits
from torch import Tensor

from tests.kernels.test_cpu_kernels import segments_of, table_of

# The largest difference from float64, to the largest value; for bfloat16 half a unit in the last place.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


class Layer:
    """A weight (out, in) with a bias, and masks of its slots."""

    def __init__(self, out: int, width: int, dtype: torch.dtype, slots: int = 3, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.base, self.bias = self.random(out, width), self.random(out)
        self.keep = [torch.rand(out, width, generator=self.generator) > 0.3 for _ in range(slots)]
        self.table: Table[Bits] = table_of(*(Bits(pack_bits(keep)) for keep in self.keep))

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def exact(self, x: Tensor, y: Tensor, bias: Tensor | None, segments: Segments) -> Tensor:
        wanted = y.double()
        for start, stop, slot in segments:
            wanted[start:stop] = x[start:stop].double() @ (self.base.double() * self.keep[slot]).T
            if bias is not None:
                wanted[start:stop] += bias.double()
        return wanted


@DTYPES
@pytest.mark.parametrize("width", [1, 30, 33, 40, 384, 1100])
@pytest.mark.parametrize("out", [1, 3, 17, 48])
def test_rows_and_sizes_of_all_kinds(kernels, dtype, width, out):
    """Also rows of bits that start inside a byte, an empty segment, and rows of no segment, which stay NaN."""
    layer = Layer(out, width, dtype)
    segments = segments_of((0, 1, 0), (1, 1, 1), (2, 5, 2), (7, 77, 1), (80, 96, 0), (96, 129, 2), (130, 280, 0))
    x, y = layer.random(285, width), torch.full((285, out), torch.nan).to(dtype)
    for bias in (layer.bias, None):
        mine = y.clone()
        kernels.masked_linear(x, mine, layer.base, bias, layer.table, segments)
        wanted = layer.exact(x, y, bias, segments)
        assert torch.equal(mine.isnan(), wanted.isnan())
        largest = wanted.nan_to_num().abs().max()
        assert (mine.double() - wanted).nan_to_num().abs().max() <= CLOSE[dtype] * largest


@DTYPES
def test_nothing_beside_the_rows_and_columns_is_read_or_written(kernels, dtype):
    """Rows lie apart, and what lies between them is NaN."""
    layer = Layer(35, 50, dtype)
    x, y = (torch.full((40, size), torch.nan).to(dtype) for size in (64, 70))
    x[3:30, :50] = layer.random(27, 50)
    kept, segments = y.clone(), segments_of((3, 20, 2), (20, 20, 1), (20, 30, 0))
    kernels.masked_linear(x[:, :50], y[:, :35], layer.base, layer.bias, layer.table, segments)
    wanted = layer.exact(x[:, :50], kept[:, :35], layer.bias, segments)[3:30]
    assert (y[3:30, :35].double() - wanted).abs().max() <= CLOSE[dtype] * wanted.abs().max()
    y[3:30, :35] = kept[3:30, :35]
    assert torch.equal(y.view(torch.uint8), kept.view(torch.uint8))


@DTYPES
def test_not_a_number_stays_in_its_row(kernels, dtype):
    layer = Layer(33, 70, dtype)
    x, y = layer.random(20, 70), torch.zeros(20, 33, dtype=dtype)
    layer.table.put(0, Bits(torch.full((len(layer.table[0].bits),), 255, dtype=torch.uint8)))
    x[5, 69] = torch.nan
    kernels.masked_linear(x, y, layer.base, layer.bias, layer.table, segments_of((0, 20, 0)))
    assert y[5].isnan().all()
    assert torch.cat([y[:5], y[6:]]).isfinite().all()


@DTYPES
def test_results_depend_neither_on_threads_nor_on_other_rows(kernels, dtype):
    layer = Layer(200, 1100, dtype)
    x = layer.random(150, 1100)
    segments = segments_of((0, 90, 0), (90, 91, 1), (95, 149, 2))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y = torch.zeros(150, 200, dtype=dtype)
            kernels.masked_linear(x, y, layer.base, layer.bias, layer.table, segments)
            results.append(y)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    for row in (0, 1, 5, 17, 89):
        alone = torch.zeros(150, 200, dtype=dtype)
        kernels.masked_linear(x, alone, layer.base, layer.bias, layer.table, segments_of((row, row + 1, 0)))
        assert torch.equal(alone[row], results[0][row])


def test_a_slot_without_a_mask_and_rows_beyond_the_batch_are_errors(kernels):
    layer = Layer(8, 8, torch.float32)
    x, y = layer.random(4, 8), torch.zeros(4, 8)
    with pytest.raises(RuntimeError, match="masked_linear failed: a segment's slot has nothing at this site"):
        kernels.masked_linear(x, y, layer.base, None, layer.table, segments_of((0, 2, 3)))
    with pytest.raises(RuntimeError, match="lie outside the tensors"):
        kernels.masked_linear(x, y, layer.base, None, layer.table, segments_of((2, 5, 0)))


def test_masks_are_a_bit_a_weight_in_their_slots_and_one_call_computes_all(library, monkeypatch):
    """The table's entries are the bits themselves; however many tasks there are, the library is called once."""
    layer = Layer(64, 64, torch.float32, slots=16)
    kernels, calls = CpuKernels(library), []
    call = kernels._call
    monkeypatch.setattr(kernels, "_call", lambda *args: calls.append(args[0]) or call(*args))
    x, y = layer.random(32, 64), torch.zeros(32, 64)
    rows = segments_of(*((2 * i, 2 * i + 2, i) for i in range(16)))
    kernels.masked_linear(x, y, layer.base, layer.bias, layer.table, rows)
    assert kernels.keeps_bits
    assert calls == ["masked_linear"]
    assert sum(entry.bits.nbytes for entry in layer.table.entries) == 16 * 64 * 64 // 8


@pytest.mark.parametrize("case", ["gradients", "float64", "columns", "bias", "bits"])
def test_the_reference_computes_what_c_cannot(library, monkeypatch, case):
    layer = Layer(24, 16, torch.float64 if case == "float64" else torch.float32)
    x, y = layer.random(6, 16), torch.zeros(6, 24, dtype=layer.dtype)
    bias = layer.bias
    if case == "columns":
        x = layer.random(16, 6).T
    if case == "bits":  # too many
        layer.table.put(1, Bits(torch.cat([layer.table[1].bits, layer.table[1].bits])))
    kernels = CpuKernels(library)
    monkeypatch.setattr(kernels, "_call", lambda *_: pytest.fail("the library was called"))
    segments = segments_of((0, 3, 0), (3, 6, 2))
    wanted = layer.exact(x, y, bias, segments)
    with torch.inference_mode(False), torch.set_grad_enabled(case == "gradients"):
        own = [t.clone(memory_format=torch.preserve_format) for t in (x, y, layer.base)]
        bias = torch.stack([bias, bias], 1)[:, 0] if case == "bias" else bias.clone()
        kernels.masked_linear(own[0], own[1], own[2], bias, layer.table, segments)
    torch.testing.assert_close(own[1].double(), wanted, rtol=1e-5, atol=1e-5)

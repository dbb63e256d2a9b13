"""Several operations on a row in one call of the C library, in every variant, against float64."""

from __future__ import annotations

import pytest
import torch
from manyhats.kernels.activations import NUMBERS
from manyhats.kernels.cpu.fused_rows import CpuFusedRows
from manyhats.methods.fusion.operation import weigh_members
from torch.nn import functional as F

from tests.kernels.test_cpu_kernels import segments_of

CLOSE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])
ROWS = 150
SEGMENTS = segments_of((1, 2, 7), (2, 60, 0), (60, 60, 3), (70, 149, 3))  # of slots that hold nothing


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def fused(library):
    return CpuFusedRows(library)


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(shape, generator=generator)


def inside(y):
    return torch.cat([y[start:stop] for start, stop, _ in SEGMENTS])


@DTYPES
@pytest.mark.parametrize("width", [1, 7, 32, 50, 384, 1031])
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, False)])
def test_a_sum_and_its_norm(fused, random, dtype, width, given):
    """Of rows that lie apart, too."""
    f, x = random(ROWS, width + 3).to(dtype)[:, :width], (3 + random(ROWS, width)).to(dtype)
    gain, offset = ((1 + random(width) / 4).to(dtype) if one else None for one in given)
    total = (f + x).double()
    exact = F.layer_norm(total, (width,), *(t if t is None else t.double() for t in (gain, offset)), 1e-5)
    y = fused.add_norm(f, x, gain, offset, 1e-5, SEGMENTS)
    assert y.shape == f.shape
    assert (inside(y).double() - inside(exact)).abs().max() <= CLOSE[dtype] * max(1, inside(exact).abs().max())


@DTYPES
def test_rows_that_are_all_alike_and_one_with_no_number(fused, random, dtype):
    f, x = torch.ones(ROWS, 384).to(dtype), torch.ones(ROWS, 384).to(dtype)
    f[5, 383] = torch.nan
    y = inside(fused.add_norm(f, x, None, None, 1e-5, SEGMENTS))
    assert y[4].isnan().all()
    assert torch.equal(torch.cat([y[:4], y[5:]]), torch.zeros(len(y) - 1, 384, dtype=dtype))


@DTYPES
@pytest.mark.parametrize(("members", "width"), [(2, 1), (3, 24), (5, 37)])
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "swish"])
def test_weights_of_a_fusions_members(fused, random, dtype, members, width, activation):
    low = random(ROWS, members * (2 * width + 1) + 5).to(dtype)[:, : members * (2 * width + 1)]
    y = fused.weigh_members(low, members, activation, SEGMENTS)
    exact = weigh_members(low.double(), members, activation)
    assert y.shape == exact.shape
    assert (inside(y).double() - inside(exact)).abs().max() <= CLOSE[dtype] * inside(exact).abs().max()


def test_what_is_supported(fused):
    assert all(fused.supports(dtype, name) for dtype in CLOSE for name in (None, *NUMBERS, "ReLU"))
    assert not fused.supports(torch.float64)
    assert not fused.supports(torch.float32, "sqrtsoftplus")


@DTYPES
def test_results_do_not_depend_on_threads(fused, random, dtype):
    f, x = random(ROWS, 384).to(dtype), random(ROWS, 384).to(dtype)
    low = random(ROWS, 147).to(dtype)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            both = fused.add_norm(f, x, None, None, 1e-5, SEGMENTS), fused.weigh_members(low, 3, "relu", SEGMENTS)
            results.append(torch.cat([inside(y) for y in both], dim=1))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_rows_beyond_the_batch_are_an_error(fused, random):
    beyond = segments_of((100, ROWS + 1, 0))
    with pytest.raises(RuntimeError, match=r"add_norm failed: .* lie outside the tensors"):
        fused.add_norm(random(ROWS, 8), random(ROWS, 8), None, None, 1e-5, beyond)
    with pytest.raises(RuntimeError, match=r"weigh failed: .* lie outside the tensors"):
        fused.weigh_members(random(ROWS, 10), 2, None, beyond)

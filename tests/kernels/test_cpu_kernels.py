"""The CPU's kernels, in every variant that the processor runs, against float64 and against the reference."""

from __future__ import annotations

import threading

import pytest
import torch
from manyhats.kernels.activations import NUMBERS, activation
from manyhats.kernels.base import LowRank, ScaleAdd, Sparse, Weight
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor

CPU = torch.device("cpu")
# The largest difference from float64, to the largest value.
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(shape, generator=generator)


def pair(random, rank: int, width: int, out: int, dtype: torch.dtype, **more) -> LowRank:
    down, up = random(rank, width) / width**0.5, random(rank, out) / max(rank, 1) ** 0.5
    own = {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in more.items()}
    return LowRank(down.to(dtype), up.to(dtype), **own)


def table_of(*entries, first: int = 0) -> Table:
    table = Table()
    for slot, entry in enumerate(entries, first):
        table.put(slot, entry)
    return table


def segments_of(*rows: tuple[int, int, int]) -> Segments:
    return Segments([Segment(*one) for one in rows])


def exact(x: Tensor, y: Tensor, table: Table, segments: Segments, row_scale: Tensor | None = None) -> Tensor:
    """low_rank in float64."""
    out = y.double().clone()
    for start, stop, slot in segments:
        own = table[slot]
        low = x[start:stop].double() @ own.down.double().T
        if own.down_bias is not None:
            low += own.down_bias.double()
        if own.activation is not None:
            low = activation(own.activation)(low)
        more = low @ own.up.double()
        if own.up_bias is not None:
            more += own.up_bias.double()
        if own.scale is not None:
            more *= own.scale.double() if isinstance(own.scale, Tensor) else own.scale
        if row_scale is not None:
            more *= row_scale[start:stop].double()
        out[start:stop] += more
    return out


def check_low_rank(kernels, x, y, table, segments, row_scale=None):
    """Compares with float64 and with the reference; rows of no segment stay, to the bit."""
    wanted = exact(x, y, table, segments, row_scale)
    plain, mine = y.clone(), y.clone()
    Reference().low_rank(x, plain, table, segments, row_scale)
    kernels.low_rank(x, mine, table, segments, row_scale)
    own = torch.zeros(len(y), dtype=torch.bool)
    for start, stop, _ in segments:
        own[start:stop] = True
    if own.any():
        largest = wanted[own].abs().max()
        assert (mine[own].double() - wanted[own]).abs().max() <= CLOSE[y.dtype] * largest
        assert (mine[own].double() - plain[own].double()).abs().max() <= 2 * CLOSE[y.dtype] * largest
    assert torch.equal(mine[~own].view(torch.uint8), y[~own].view(torch.uint8))
    return mine


@DTYPES
@pytest.mark.parametrize(("width", "out"), [(384, 384), (576, 1536), (64, 32), (37, 53), (1, 1), (95, 129)])
def test_mixed_ranks_and_rows_in_one_call(kernels, random, dtype, width, out):
    ranks = [1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 48, 64]
    table = table_of(*(pair(random, rank, width, out, dtype) for rank in ranks))
    rows, start = [], 0
    for slot, count in enumerate([1, 2, 3, 4, 5, 6, 7, 0, 33, 40, 1, 70]):
        rows.append((start, start + count, slot))
        start += count + slot % 2  # some rows belong to none
    x, y = random(start + 3, width).to(dtype), random(start + 3, out).to(dtype)
    check_low_rank(kernels, x, y, table, segments_of(*rows))


@DTYPES
@pytest.mark.parametrize("name", [*NUMBERS, None])
def test_biases_scales_and_activations_differ_by_slot(kernels, random, dtype, name):
    width, out = 48, 80
    entries = [
        pair(random, 12, width, out, dtype, down_bias=random(12), up_bias=random(out), activation=name),
        pair(random, 6, width, out, dtype, down_bias=3 * random(6), activation="relu", scale=0.3),
        pair(random, 17, width, out, dtype, up_bias=random(out), activation=name, scale=random(1)),
        pair(random, 8, width, out, dtype, up_bias=random(out), scale=random(out)),
        pair(random, 8, width, out, dtype),
        pair(random, 0, width, out, dtype),
        pair(random, 0, width, out, dtype, up_bias=random(out)),
    ]
    rows = segments_of(*((3 * i, 3 * i + 3, i) for i in range(len(entries))))
    x, y = (2 * random(21, width)).to(dtype), random(21, out).to(dtype)
    check_low_rank(kernels, x, y, table_of(*entries), rows)
    check_low_rank(kernels, x, y, table_of(*entries), rows, random(21, 1).to(dtype))


@DTYPES
@pytest.mark.parametrize("rank", [8, 64, 300])
def test_few_rows_are_shared_out_by_ranks_and_columns(kernels, random, dtype, rank):
    """One row, or two tasks, of a large pair: more threads than tiles."""
    table = table_of(pair(random, rank, 1536, 1537, dtype), pair(random, rank + 1, 1536, 1537, dtype))
    for rows in ([(0, 1, 0)], [(0, 1, 1), (1, 6, 0)]):
        x, y = random(7, 1536).to(dtype), random(7, 1537).to(dtype)
        check_low_rank(kernels, x, y, table, segments_of(*rows))


@DTYPES
def test_nothing_but_the_segments_rows_and_columns_is_touched(kernels, random, dtype):
    """Rows with room between them, and NaN in all that does not belong to the call."""
    table = table_of(pair(random, 9, 40, 50, dtype, activation="gelu"), first=2)
    x, y = (torch.full((12, size), torch.nan).to(dtype) for size in (64, 70))
    x[3:8, :40], y[3:8, :50] = random(5, 40), random(5, 50)
    kept = y.clone()
    segments = segments_of((3, 6, 2), (6, 6, 2), (6, 8, 2))
    mine = check_low_rank(kernels, x[:, :40], y[:, :50], table, segments)
    kernels.low_rank(x[:, :40], y[:, :50], table, segments)
    assert torch.equal(y[3:8, :50], mine[3:8])
    assert not y[3:8, :50].isnan().any()
    y[3:8, :50] = kept[3:8, :50]
    assert torch.equal(y.view(torch.uint8), kept.view(torch.uint8))


@DTYPES
@pytest.mark.parametrize("name", [*NUMBERS, None])
def test_not_a_number_stays_one(kernels, random, dtype, name):
    """A broken input must be seen in the answer."""
    table = table_of(pair(random, 5, 33, 65, dtype, activation=name))
    x, y = random(4, 33).to(dtype), random(4, 65).to(dtype)
    x[1, 7] = torch.nan
    kernels.low_rank(x, y, table, segments_of((0, 4, 0)))
    assert y[1].isnan().all()
    assert y[[0, 2, 3]].isfinite().all()


@DTYPES
def test_large_values_saturate_as_in_torch(kernels, dtype):
    values = torch.tensor([-1e30, -200.0, -90.0, -20.0, -9.0, -1e-5, 0.0, 1e-5, 9.0, 20.0, 90.0, 200.0, 1e30]).to(dtype)
    one = torch.ones(1, 1, dtype=dtype)
    for name in ("gelu", "gelu_new", "tanh", "silu", "sigmoid", "quick_gelu", "relu6", "mish"):
        y = torch.zeros(len(values), 1, dtype=dtype)
        kernels.low_rank(values[:, None], y, table_of(LowRank(one, one, activation=name)), segments_of((0, 13, 0)))
        wanted = activation(name)(values.double())
        torch.testing.assert_close(y[:, 0].double(), wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=3e-6)


@DTYPES
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(kernels, random, dtype, threads):
    table = table_of(*(pair(random, rank, 384, 384, dtype, activation="silu") for rank in (8, 33, 64)))
    x, y = random(300, 384).to(dtype), random(300, 384).to(dtype)
    segments = segments_of((0, 90, 0), (90, 91, 1), (95, 290, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = y.clone()
        kernels.low_rank(x, alone, table, segments)
        torch.set_num_threads(threads)
        mine = y.clone()
        kernels.low_rank(x, mine, table, segments)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, mine)


@DTYPES
def test_a_row_does_not_depend_on_its_neighbours(kernels, random, dtype):
    """The same sums in the same order, however many rows are done together."""
    table = table_of(pair(random, 11, 100, 90, dtype, activation="gelu", up_bias=random(90)))
    x, y = random(9, 100).to(dtype), random(9, 90).to(dtype)
    together = y.clone()
    kernels.low_rank(x, together, table, segments_of((0, 9, 0)))
    for row in range(9):
        alone = y.clone()
        kernels.low_rank(x, alone, table, segments_of((row, row + 1, 0)))
        assert torch.equal(alone[row], together[row])


def test_threads_of_ones_own(kernels, random):
    """Several threads call at once, each with its own rows, while slots come and go."""
    table = table_of(*(pair(random, 8, 64, 64, torch.float32) for _ in range(4)))
    x, y = random(400, 64), random(400, 64)
    wrong: list[float] = []

    def work(slot: int) -> None:
        segments = segments_of((0, 400, slot))
        with torch.inference_mode():
            wanted = exact(x, y, table, segments)
            for _ in range(30):
                mine = y.clone()
                kernels.low_rank(x, mine, table, segments)
                wrong.append(float((mine - wanted).abs().max()))

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for worker in workers:
        worker.start()
    for slot in range(5, 60):
        table.put(slot, pair(random, 4, 64, 64, torch.float32))
        table.drop(slot)
    for worker in workers:
        worker.join()
    assert len(wrong) == 120
    assert max(wrong) < 1e-4


@DTYPES
@pytest.mark.parametrize("out", [1, 31, 32, 384, 769])
def test_scale_add(kernels, random, dtype, out):
    gain, offset = (1 + random(2, out) / 4).to(dtype), random(2, out).to(dtype)
    table = table_of(ScaleAdd(gain[0], offset[0]), ScaleAdd(gain[1]), ScaleAdd(None, offset[1]))
    y = random(150, out).to(dtype)
    segments = segments_of((1, 2, 0), (2, 60, 1), (60, 60, 0), (70, 149, 2))
    mine, plain = y.clone(), y.clone()
    kernels.scale_add(mine, table, segments)
    Reference().scale_add(plain, table, segments)
    assert (mine - plain).abs().max() <= CLOSE[dtype] * plain.abs().max()
    for rows in ([0], slice(60, 70), [149]):
        assert torch.equal(mine[rows], y[rows])


@DTYPES
@pytest.mark.parametrize("width", [1, 50, 384])
def test_layers_of_few_outputs(kernels, random, dtype, width):
    entries = [Weight(random(n, width).to(dtype), random(n).to(dtype) if n % 2 else None) for n in (1, 2, 9, 32)]
    x, y = random(60, width).to(dtype), torch.full((60, 40), torch.nan).to(dtype)
    segments = segments_of((0, 1, 0), (1, 8, 1), (9, 30, 2), (30, 57, 3))
    mine, plain = y.clone(), y.clone()
    kernels.linear(x, mine, table_of(*entries), segments)
    Reference().linear(x, plain, table_of(*entries), segments)
    assert torch.equal(mine.isnan(), plain.isnan())
    assert (mine - plain).nan_to_num().abs().max() <= CLOSE[dtype] * plain.nan_to_num().abs().max()


@DTYPES
@pytest.mark.parametrize("width", [1, 50, 75, 384])
def test_layers_of_many_outputs_beside_such_of_few(kernels, random, monkeypatch, dtype, width):
    """In one call, whatever the rows of a segment, with and without bias; what is beside their outputs stays."""
    monkeypatch.setattr(kernels, "_most_rows", {dtype: 1 << 30})
    calls, call = [], kernels._call
    monkeypatch.setattr(kernels, "_call", lambda *args: calls.append(args[0]) or call(*args))
    table = table_of(
        *(Weight(random(n, width).to(dtype), random(n).to(dtype) if n % 2 else None) for n in (33, 9, 100))
    )
    x, y = random(350, width).to(dtype), torch.full((350, 110), torch.nan).to(dtype)
    segments = segments_of((0, 1, 0), (1, 8, 1), (9, 30, 2), (30, 300, 0), (340, 344, 2))
    mine, exact = y.clone(), y.double()
    kernels.linear(x, mine, table, segments)
    for start, stop, slot in segments:
        weight, bias, _ = table[slot]
        out = x[start:stop].double() @ weight.double().T + (0 if bias is None else bias.double())
        exact[start:stop, : len(weight)] = out
    assert calls == ["linear"]
    assert torch.equal(mine.isnan(), exact.isnan())
    assert (mine.double() - exact).nan_to_num().abs().max() <= CLOSE[dtype] * exact.nan_to_num().abs().max()


def test_torch_computes_layers_of_many_outputs_where_it_is_faster(library, random, monkeypatch):
    """In float32 always, and in bfloat16 where segments have many rows."""
    kernels, calls = CpuKernels(library), []
    monkeypatch.setattr(kernels, "_call", lambda *args: calls.append(args[0]))
    for dtype, rows in ((torch.float32, 4), (torch.bfloat16, 1000), (torch.bfloat16, 8)):
        x, y, table = random(rows, 40).to(dtype), random(rows, 40).to(dtype), table_of(Weight(random(40, 40).to(dtype)))
        kernels.linear(x, y, table, segments_of((0, rows, 0)))
        if not calls:
            torch.testing.assert_close(y, x @ table[0].weight.T, rtol=0.02, atol=0.02)
    assert calls == ["linear"]


def test_a_slot_without_an_entry_is_an_error(kernels, random):
    table = table_of(pair(random, 4, 8, 8, torch.float32), pair(random, 4, 8, 8, torch.float32))
    table.drop(1)
    x, y = random(4, 8), random(4, 8)
    for slot in (1, 2, 99):
        with pytest.raises(RuntimeError, match="low_rank failed: a segment's slot has nothing at this site"):
            kernels.low_rank(x, y, table, segments_of((0, 2, slot)))


def test_rows_beyond_the_batch_are_an_error(kernels, random):
    table = table_of(pair(random, 4, 8, 8, torch.float32))
    with pytest.raises(RuntimeError, match="lie outside the tensors"):
        kernels.low_rank(random(4, 8), random(4, 8), table, segments_of((2, 5, 0)))
    with pytest.raises(RuntimeError, match="lie outside the tensors"):
        kernels.linear(random(4, 8), random(4, 2), table_of(Weight(torch.zeros(3, 8))), segments_of((0, 4, 0)))


class Counts(Reference):
    """Counts what the reference is asked to do."""

    def __init__(self) -> None:
        self.calls = 0

    def low_rank(self, *args, **kwargs):
        self.calls += 1
        super().low_rank(*args, **kwargs)


@pytest.mark.parametrize(
    "case", ["activation", "gradients", "float16", "float64", "columns", "mixed types", "matrix", "scale", "no rows"]
)
def test_the_reference_does_the_whole_call_where_c_cannot(library, random, monkeypatch, case):
    reference = Counts()
    kernels = CpuKernels(library)
    monkeypatch.setattr(kernels, "_reference", reference)
    dtype = {"float16": torch.float16, "float64": torch.float64}.get(case, torch.float32)
    other = torch.bfloat16 if case == "mixed types" else dtype
    entries = [pair(random, 4, 16, 24, dtype), pair(random, 4, 16, 24, other)]
    if case == "activation":
        entries[1] = entries[1]._replace(activation="sqrtsoftplus")
    if case == "matrix":
        entries[1] = entries[1]._replace(up=random(24, 4).T)
    if case == "scale":
        entries[1] = entries[1]._replace(scale=torch.tensor([2.0], dtype=torch.float64))
    table, segments = table_of(*entries), segments_of((0, 3, 0))
    x, y = random(16, 6).to(dtype).T if case == "columns" else random(6, 16).to(dtype), random(6, 24).to(dtype)
    if case == "no rows":
        table, segments = Table(), segments_of()
    wanted = exact(x, y, table, segments)
    with torch.inference_mode(False), torch.set_grad_enabled(case == "gradients"):
        x, mine = x.clone(memory_format=torch.preserve_format), y.clone()
        kernels.low_rank(x, mine, table, segments)
    assert reference.calls == 1
    torch.testing.assert_close(mine.double(), wanted, rtol=1e-2, atol=1e-2)
    if case == "activation":  # decided by what is in the table now
        table.drop(1)
        kernels.low_rank(x, mine, table, segments)
        assert reference.calls == 1


@DTYPES
@pytest.mark.parametrize(("width", "out"), [(384, 384), (37, 53), (1, 1), (3, 130)])
def test_sparse_differences_of_several_tasks_in_one_call(kernels, random, dtype, width, out):
    """Counts of rows around the block's size, an empty difference, and NaN in all that does not belong to the call."""
    counts, entries = [1, 3, 4, 16, 17, 50], []
    for i in range(len(counts)):
        chosen = (random(width * out) > i).nonzero()[:, 0]
        entries.append(Sparse(chosen.to(torch.int32), random(len(chosen)).to(dtype)))
    rows = sum(counts) + 2
    x, y = torch.full((rows, width), torch.nan).to(dtype), torch.full((rows, out), torch.nan).to(dtype)
    x[1:-1], y[1:-1] = random(rows - 2, width), random(rows - 2, out)
    starts = [1 + sum(counts[:i]) for i in range(len(counts))]
    segments = segments_of(*((start, start + n, i) for i, (start, n) in enumerate(zip(starts, counts, strict=True))))
    wanted = y.double()
    for start, stop, slot in segments:
        dense = torch.zeros(out * width, dtype=torch.float64)
        dense[entries[slot].indices.long()] = entries[slot].values.double()
        wanted[start:stop] += x[start:stop].double() @ dense.view(out, width).T
    kernels.sparse_add(x, y, table_of(*entries), segments)
    assert y[[0, -1]].isnan().all()
    assert (y[1:-1].double() - wanted[1:-1]).abs().max() <= CLOSE[dtype] * wanted[1:-1].abs().max()


def test_a_sparse_difference_outside_the_weight_is_an_error(kernels, random):
    table = table_of(Sparse(torch.tensor([3, 64], dtype=torch.int32), random(2)))
    with pytest.raises(RuntimeError, match="lie outside the tensors"):
        kernels.sparse_add(random(4, 8), random(4, 8), table, segments_of((0, 4, 0)))


@DTYPES
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_sparse_differences_rows_depend_on_no_others_nor_on_threads(kernels, random, dtype, threads):
    chosen = [(random(96 * 100) > 2).nonzero()[:, 0].to(torch.int32) for _ in range(2)]
    table = table_of(*(Sparse(indices, random(len(indices)).to(dtype)) for indices in chosen))
    x, y = random(600, 100).to(dtype), random(600, 96).to(dtype)
    together, alone, before = y.clone(), y.clone(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        kernels.sparse_add(x, together, table, segments_of((0, 305, 0), (305, 600, 1)))
        torch.set_num_threads(1)
        for i in range(600):
            kernels.sparse_add(x[i : i + 1], alone[i : i + 1], table, segments_of((0, 1, int(i >= 305))))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)

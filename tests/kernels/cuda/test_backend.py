"""The kernels in Triton, interpreted where there is no CUDA device, against the reference in float64."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.kernels.activations import NUMBERS
from manyhats.kernels.base import Bits, JoinedPair, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.segments import Segment, Segments, Table

from tests.kernels.cuda.operands import (
    CLOSE,
    LONG,
    NOBODY,
    OUT,
    SHORT,
    SLOTS,
    WIDTH,
    Made,
    check,
    copy_of,
    pair,
    table_of,
)

NAN = float("nan")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
ALL = pytest.mark.parametrize("segments", [SHORT, LONG, NOBODY], ids=["short", "long", "none"])


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.inference_mode():
        yield


def launched(kernels: Any) -> list[str]:
    """The names of the programs that are launched from now on."""
    launches: list[str] = []
    plain = kernels._launch

    def counted(program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        launches.append(program.fn.__name__)
        plain(program, grid, *arguments, **constants)

    kernels._launch = counted
    return launches


@DTYPES
@ALL
def test_pairs_of_several_ranks(kernels: Any, device: torch.device, dtype: torch.dtype, segments: Segments) -> None:
    made = Made(dtype, device)
    table = table_of(lambda i: pair(made, (3, 8, 16, 70, 1)[i]))
    x, y = made.rows(segments, WIDTH), made.rows(segments, OUT)
    y[-2:] = NAN  # rows that belong to none are not even read
    check(kernels, "low_rank", (x, None, table), y, copy_of(segments))


def test_half_precision(kernels: Any, device: torch.device) -> None:
    made = Made(torch.float16, device)
    table = table_of(lambda i: pair(made, 4, "gelu", biases=True))
    check(kernels, "low_rank", (made.rows(SHORT, WIDTH), None, table), made.rows(SHORT, OUT), copy_of(SHORT))


@DTYPES
def test_pairs_with_biases_activations_and_scales(kernels: Any, device: torch.device, dtype: torch.dtype) -> None:
    made = Made(dtype, device)
    scales = [None, 2.5, made(1), made(OUT), 0.5]
    kinds = [None, "gelu", "tanh", "relu", "silu"]
    table = table_of(lambda i: pair(made, 5 + i, kinds[i], biases=i != 4, scale=scales[i]))
    x, y, weights = made.rows(SHORT, WIDTH), made.rows(SHORT, OUT), made.rows(SHORT, 1)
    check(kernels, "low_rank", (x, None, table), y, copy_of(SHORT), row_scale=weights)
    check(kernels, "low_rank", (x, None, table), y, copy_of(SHORT))


@DTYPES
@pytest.mark.parametrize("sites", [2, 3])
@pytest.mark.parametrize("segments", [SHORT, LONG], ids=["short", "long"])
def test_pairs_of_several_sites_in_one_call(
    kernels: Any, device: torch.device, dtype: torch.dtype, sites: int, segments: Segments
) -> None:
    """Not every task acts at each of them; outputs and ranks differ."""
    made = Made(dtype, device)
    outs, ranks = (OUT, 5, 130)[:sites], ((3, 20, 8, 4, 1), (2, 2, 2, 2, 2), (70, 1, 5, 33, 2))
    x = made.rows(segments, WIDTH)
    pairs, wanted = [], []
    for site, out in enumerate(outs):
        table: Table[LowRank] = Table()
        there = [own for own in segments if (own.slot + site) % 3 or own.slot == 9]
        for own in there:
            rank = ranks[site][SLOTS.index(own.slot)]
            biases = (made(rank), made(out)) if site == 1 else (None, None)
            table.put(own.slot, LowRank(made(rank, WIDTH), made(rank, out), *biases, "gelu" if site else None, made(1)))
        y = made.rows(segments, out)
        pairs.append(JoinedPair(y, table, Segments(there)))
        wanted.append((y.clone(), table, there))
    calls = launched(kernels)
    kernels.joined_low_rank(x, pairs, copy_of(segments))
    assert calls == ["shrink", "expand"]
    for joined, (y, table, there) in zip(pairs, wanted, strict=True):
        check(kernels, "low_rank", (x, None, table), y, Segments(there))
        torch.testing.assert_close(joined.y, y, atol=CLOSE[dtype], rtol=CLOSE[dtype])


def test_a_slot_beyond_a_table_has_nothing_to_do_there(kernels: Any, device: torch.device) -> None:
    """Behind a table's structs in the arena are another table's."""
    made = Made(torch.float32, device)
    tables: list[Table[LowRank]] = [Table(), Table(), Table()]
    for slot in (0, 40):
        tables[0].put(slot, pair(made, 3))
        tables[2].put(slot, pair(made, 3))
    tables[1].put(0, pair(made, 3))
    segments, first = Segments([Segment(0, 2, 0), Segment(2, 5, 40)]), Segments([Segment(0, 2, 0)])
    ys = [torch.zeros(5, OUT, device=device) for _ in tables]
    parts = [JoinedPair(y, table, own) for y, table, own in zip(ys, tables, (segments, first, segments), strict=True)]
    kernels.joined_low_rank(made(5, WIDTH), parts, segments)
    assert [bool(y[2:].any()) for y in ys] == [True, False, True]
    assert all(bool(y[:2].any()) for y in ys)


def test_sites_with_an_unsupported_entry_are_computed_one_by_one(device: torch.device) -> None:
    from manyhats.kernels.cuda.backend import CudaKernels

    kernels, made = CudaKernels(), Made(torch.float32, device)
    x, tables = made.rows(SHORT, WIDTH), [table_of(lambda i: pair(made, 4)) for _ in range(2)]
    tables[1].put(3, pair(made, 4, "sqrtsoftplus"))
    ys = [made.rows(SHORT, OUT) for _ in tables]
    expected = [y.clone() for y in ys]
    calls = launched(kernels)
    kernels.joined_low_rank(
        x, [JoinedPair(y, table, SHORT) for y, table in zip(ys, tables, strict=True)], copy_of(SHORT)
    )
    assert calls == ["shrink", "expand"]  # of the first
    for y, wanted, table in zip(ys, expected, tables, strict=True):
        check(kernels, "low_rank", (x, None, table), wanted, copy_of(SHORT))
        torch.testing.assert_close(y, wanted, atol=0, rtol=0)


def test_weights_at_any_address(kernels: Any, device: torch.device) -> None:
    """Several numbers are read at once where all weights of a table begin at multiples of 16 bytes."""
    made, aligned = Made(torch.bfloat16, device), []
    plain = kernels._launch

    def noted(program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        aligned.append(constants["ALIGNED"])
        plain(program, grid, *arguments, **constants)

    kernels._launch = noted
    pairs, layers = table_of(lambda i: pair(made, 4)), table_of(lambda i: Weight(made(OUT, WIDTH)))
    x, y = made.rows(SHORT, WIDTH), made.rows(SHORT, OUT)

    def both() -> None:
        check(kernels, "low_rank", (x, None, pairs), y.clone(), copy_of(SHORT))
        check(kernels, "linear", (x, None, layers), y.clone(), copy_of(SHORT))

    both()
    captured = kernels.captures.update([pairs, layers], StagingBuffer(HostBuffers(device)), device)
    pairs.put(3, pair(made, 4)._replace(up=made(4 * OUT + 1)[1:].view(4, OUT)))
    layers.put(3, Weight(made(OUT * WIDTH + 1)[1:].view(OUT, WIDTH)))
    both()
    assert aligned == [True] * 3 + [False] * 3
    changed = kernels.captures.update([pairs, layers], StagingBuffer(HostBuffers(device)), device)
    assert changed != captured  # what was captured before would read them wrongly


@pytest.mark.parametrize("name", NUMBERS)
def test_every_activation(kernels: Any, device: torch.device, name: str) -> None:
    made = Made(torch.float32, device)
    entry = LowRank(made(3, WIDTH), made(3, OUT), made(3), None, name)
    table: Table[LowRank] = Table()
    table.put(0, entry)
    segments = Segments([Segment(0, 12, 0)])
    check(kernels, "low_rank", (made(12, WIDTH) * 4, None, table), torch.zeros(12, OUT, device=device), segments)


def test_a_long_sum_is_divided_into_parts(kernels: Any, device: torch.device) -> None:
    made, width = Made(torch.float32, device), 2100
    table: Table[LowRank] = Table()
    table.put(0, LowRank(made(4, width), made(4, OUT), made(4), None, "relu"))
    segments = Segments([Segment(0, 3, 0)])
    check(kernels, "low_rank", (made(3, width), None, table), made(3, OUT), segments)


def test_a_pair_may_write_where_it_reads(kernels: Any, device: torch.device) -> None:
    made = Made(torch.float32, device)
    table = table_of(lambda i: LowRank(made(3, OUT), made(3, OUT)))
    x = made.rows(SHORT, OUT)
    other = x.clone()
    kernels.low_rank(x, x, table, copy_of(SHORT))
    kernels.low_rank(other.clone(), other, table, copy_of(SHORT))
    assert torch.equal(x, other)


def test_a_pair_that_is_not_finite_stays_with_its_rows(kernels: Any, device: torch.device) -> None:
    made = Made(torch.float32, device)
    table = table_of(lambda i: pair(made, 3)._replace(up=made(3, OUT) * (NAN if i == 3 else 1.0)))
    y = made.rows(SHORT, OUT)
    kernels.low_rank(made.rows(SHORT, WIDTH), y, table, copy_of(SHORT))
    assert (~torch.isfinite(y).all(1)).nonzero()[:, 0].tolist() == list(range(5, 26))


@DTYPES
@pytest.mark.parametrize("heads", [None, 3])
def test_gains_and_offsets(kernels: Any, device: torch.device, dtype: torch.dtype, heads: int | None) -> None:
    made = Made(dtype, device)
    table = table_of(lambda i: ScaleAdd(made(OUT) if i % 2 else None, made(OUT) if i % 3 or i == 0 else None))
    y = made.rows(SHORT, OUT) if heads is None else made(34, heads, OUT)
    check(kernels, "scale_add", (None, table), y, copy_of(SHORT))
    check(kernels, "scale_add", (None, table_of(lambda i: ScaleAdd(made(OUT)))), made.rows(LONG, OUT), copy_of(LONG))


@DTYPES
@ALL
def test_layers_of_several_widths(kernels: Any, device: torch.device, dtype: torch.dtype, segments: Segments) -> None:
    made = Made(dtype, device)
    table = table_of(lambda i: Weight(made(OUT - 20 * i, WIDTH), made(OUT - 20 * i) if i % 2 else None))
    y = made.rows(segments, OUT).fill_(NAN)
    check(kernels, "linear", (made.rows(segments, WIDTH), None, table), y, copy_of(segments))


def test_layers_with_few_outputs_and_with_some(kernels: Any, device: torch.device) -> None:
    made = Made(torch.float32, device)
    table = table_of(lambda i: Weight(made(2 + i, WIDTH), made(2 + i)))
    x = made.rows(SHORT, WIDTH)
    check(kernels, "linear", (x, None, table), made.rows(SHORT, 6).fill_(NAN), copy_of(SHORT))
    own = [torch.tensor([i, 15, 70], device=device) for i in range(len(SLOTS))]
    some = table_of(lambda i: Weight(made(3, WIDTH), made(3), own[i]))
    check(kernels, "linear", (x, None, some), made.rows(SHORT, OUT), copy_of(SHORT))


@DTYPES
@ALL
def test_masks(kernels: Any, device: torch.device, dtype: torch.dtype, segments: Segments) -> None:
    made = Made(dtype, device)
    table = table_of(lambda i: Bits(made.bits(OUT, WIDTH)))
    for base, bias in ((made(OUT, WIDTH), made(OUT)), (made(WIDTH, OUT).T, None)):  # as GPT-2 stores it too
        y = made.rows(segments, OUT).fill_(NAN)
        _check_masked(kernels, made.rows(segments, WIDTH), y, base, bias, table, segments)


def _check_masked(kernels: Any, x: Any, y: Any, base: Any, bias: Any, table: Any, segments: Segments) -> None:
    check(kernels, "masked_linear", (x, None, base, bias, table), y, copy_of(segments))


@DTYPES
@ALL
def test_sparse_differences(kernels: Any, device: torch.device, dtype: torch.dtype, segments: Segments) -> None:
    made = Made(dtype, device)

    def difference(i: int) -> Sparse:
        # Dense in some outputs, none in others, and one without changes.
        chosen = torch.arange(i, OUT * WIDTH, 11 + i)
        chosen = torch.cat([torch.arange(2 * WIDTH), chosen[chosen > 40 * WIDTH]]) if i != 3 else chosen[:0]
        return Sparse(chosen.to(torch.int32).to(device), made(len(chosen)))

    x, y = made.rows(segments, WIDTH), made.rows(segments, OUT)
    check(kernels, "sparse_add", (x, None, table_of(difference)), y, copy_of(segments))


@DTYPES
@ALL
def test_embeddings(kernels: Any, device: torch.device, dtype: torch.dtype, segments: Segments) -> None:
    made = Made(dtype, device)
    own = [None, [2, 4, 7], [0], list(range(19)), [18]]

    def rows(i: int) -> Rows:
        ids = None if own[i] is None else torch.tensor(own[i], device=device)
        return Rows(made(19 if ids is None else len(ids), OUT), ids)

    y = made.rows(segments, OUT)
    ids = (torch.arange(len(y)) * 7 % 19).to(device)
    check(kernels, "lookup", (ids, None, table_of(rows)), y, copy_of(segments))


def test_a_launch_that_is_replayed_computes_the_current_tasks(kernels: Any, device: torch.device) -> None:
    """As a captured graph does it: with the arguments of then, whatever the tiles and the table hold by now."""
    made = Made(torch.float32, device)
    launches: list[tuple[Any, ...]] = []
    plain = kernels._launch

    def recorded(program: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        launches.append((program, grid, arguments, constants))
        plain(program, grid, *arguments, **constants)

    kernels._launch = recorded
    table = table_of(lambda i: pair(made, 6))
    x, y = made.rows(SHORT, WIDTH), made.rows(SHORT, OUT)
    before, first = y.clone(), copy_of(SHORT)
    kernels.low_rank(x, y, table, first)
    table.put(3, pair(made, 8, "gelu", biases=True))  # a swap, of another rank and sort
    table.put(11, pair(made, 2))  # and a new task
    table.drop(5)
    second = Segments([Segment(0, 3, 11), Segment(20, 33, 3)])  # fewer, elsewhere
    expected = before.clone()
    kernels._launch = plain
    kernels.low_rank(x, expected, table, second)
    tiles, own = first.on_device.tiles, second.on_device.tiles
    tiles.zero_()[: len(own)] = own
    y.copy_(before)
    for program, grid, arguments, constants in launches:
        plain(program, grid, *arguments, **constants)
    assert torch.equal(y, expected)
    assert not torch.equal(y, before)


@pytest.mark.parametrize("tasks", [1, 40])
def test_the_number_of_tasks_costs_no_launches(kernels: Any, device: torch.device, tasks: int) -> None:
    made = Made(torch.float32, device)
    launches = launched(kernels)
    segments = Segments([Segment(i, i + 1, i) for i in range(tasks)])

    def table(entry: Any) -> Table[Any]:
        found: Table[Any] = Table()
        for i in range(tasks):
            found.put(i, entry(i))
        return found

    x, y, base = made(tasks, 8), made(tasks, 8), made(8, 8)
    kernels.low_rank(x, y, table(lambda i: LowRank(made(1 + i % 5, 8), made(1 + i % 5, 8))), segments)
    kernels.scale_add(y, table(lambda i: ScaleAdd(made(8))), segments)
    kernels.linear(x, y, table(lambda i: Weight(made(8, 8))), segments)
    kernels.masked_linear(x, y, base, None, table(lambda i: Bits(made.bits(8, 8))), segments)
    indices = torch.tensor([3, 9], dtype=torch.int32, device=device)
    kernels.sparse_add(x, y, table(lambda i: Sparse(indices, made(2))), segments)
    kernels.lookup(torch.zeros(tasks, dtype=torch.int64, device=device), y, table(lambda i: Rows(made(1, 8))), segments)
    assert launches == ["shrink", "expand", "scale_add", "linear", "masked_linear", "sparse_add", "lookup"]


def test_what_the_programs_do_not_support_is_left_to_the_reference(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    from manyhats.kernels.cuda.backend import CudaKernels

    kernels, made = CudaKernels(), Made(torch.float32, device)
    caplog.set_level(logging.WARNING)
    x, y = made.rows(SHORT, WIDTH), made.rows(SHORT, OUT)
    rare = table_of(lambda i: pair(made, 4, "sqrtsoftplus" if i == 3 else None))
    check(kernels, "low_rank", (x, None, rare), y, copy_of(SHORT))
    check(kernels, "low_rank", (x, None, rare), y, copy_of(SHORT))
    assert [record.getMessage() for record in caplog.records] == [
        "'low_rank' is left to the reference, task by task: an entry is not supported, or entries differ"
    ]
    check(
        kernels, "linear", (x.T.contiguous().T, None, table_of(lambda i: Weight(made(OUT, WIDTH)))), y, copy_of(SHORT)
    )
    assert "'linear' is left to the reference, task by task: its operands are not contiguous" in caplog.text
    rare.put(SLOTS[3], pair(made, 4))
    caplog.clear()
    check(kernels, "low_rank", (x, None, rare), y, copy_of(SHORT))  # as soon as the entry is gone
    assert not caplog.records


def test_gradients_are_left_to_the_reference(device: torch.device) -> None:
    from manyhats.kernels.cuda.backend import CudaKernels

    made = Made(torch.float32, device)
    table = table_of(lambda i: pair(made, 4))
    x, y = made.rows(SHORT, WIDTH), made.rows(SHORT, OUT)
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        out = y.clone() * 1
        kernels = CudaKernels()
        kernels.low_rank(x, out, table_of(lambda i: LowRank(*(t.clone() for t in table[SLOTS[i]][:2]))), copy_of(SHORT))
        out.sum().backward()
    assert x.grad is not None

"""Calls of the kernels in the sizes of BERT-base and Llama-8B, with what they must read and compute at least."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from manyhats.kernels.base import Bits, LowRank, Rows, ScaleAdd, Sparse, Weight
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor

from device.child import Run

NAN = float("nan")


class Made:
    """Random tensors of one type, made on the device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, torch.device(Run.device)
        self._generator = torch.Generator(self.device).manual_seed(0)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self._generator, device=self.device) * scale).to(self.dtype)


class Sizes(NamedTuple):
    """`encoder`, `decode`: rows and tasks; `narrow`, `wide`: widths of a layer, of each."""

    encoder: tuple[int, int]
    decode: tuple[int, int]
    streams: tuple[int, int]
    narrow: tuple[int, int]
    wide: tuple[int, int]
    ranks: tuple[int, ...]
    heads: tuple[int, int, int]  # of queries, of keys, numbers of each
    context: int


FULL = Sizes((1600, 32), (32, 16), (256, 256), (768, 3072), (4096, 14336), (8, 16, 3, 64), (32, 8, 128), 512)
SMALL = Sizes((70, 4), (9, 3), (12, 12), (24, 40), (40, 56), (4, 8, 3, 17), (4, 2, 16), 20)


class Case(NamedTuple):
    """A call. `given`: its arguments, the first None in place of `y`, which it writes. `size`, `flops`: the bytes that
    it reads and writes at least, and the operations."""

    operation: str
    given: tuple[Any, ...]
    y: Tensor
    segments: Segments
    size: int
    flops: int
    more: dict[str, Any] = {}  # noqa: RUF012


def segments_of(rows: int, tasks: int) -> Segments:
    """Tasks with unlike many rows each, one without any; the last row belongs to none."""
    cuts = [0]
    for i in range(tasks):
        left = rows - 1 - cuts[-1]
        share = -(-left // (tasks - i))
        cuts.append(cuts[-1] + min(max(share + (i % 3 - 1) * (share // 3), 1), left))
    cuts[-1] = rows - 1
    found = [Segment(a, b, slot_of(i)) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
    middle = found[tasks // 2].start
    return Segments([*found[: tasks // 2], Segment(middle, middle, tasks), *found[tasks // 2 :]])


def slot_of(task: int) -> int:
    """Not in the order of the batch."""
    return task ^ 1


def table_of(tasks: int, entry: Callable[[int], Any]) -> Table[Any]:
    """An entry for each task, and one for the segment without rows."""
    table: Table[Any] = Table()
    for i in range(tasks):
        table.put(slot_of(i), entry(i))
    table.put(tasks if tasks % 2 == 0 else tasks + 1, entry(0))
    return table


def bytes_of(*values: Any) -> int:
    """Of all tensors in there, entries of tables among them."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.nbytes
        elif isinstance(value, Table):
            total += sum(bytes_of(*entry) for entry in value.entries if entry is not None)
    return total


def low_rank(made: Made, where: tuple[int, int], shape: tuple[int, int], ranks: tuple[int, ...], **more: Any) -> Case:
    """Pairs; `activation`, `scaled`: see `LowRank` and the call's `row_scale`."""
    (rows, tasks), (width, out) = where, shape
    activation = more.get("activation")

    def pair(i: int) -> LowRank:
        rank = ranks[i % len(ranks)]
        biases = (made(rank), made(out)) if activation else (None, None)
        return LowRank(made(rank, width, scale=width**-0.5), made(rank, out), *biases, activation, 0.5 + i % 3)

    table, segments = table_of(tasks, pair), segments_of(rows, tasks)
    x, y = made(rows, width), made(rows, out)
    flops = sum(2 * (b - a) * len(table[slot].down) * (width + out) for a, b, slot in segments if b > a)
    scale = {"row_scale": made(rows, 1)} if more.get("scaled") else {}
    return Case("low_rank", (x, None, table), y, segments, bytes_of(x, y, y, table), flops, scale)


def scale_add(made: Made, where: tuple[int, int], width: int, heads: int = 0) -> Case:
    """Gains and offsets, of vectors or of each head."""
    rows, tasks = where
    y = made(rows, heads, width) if heads else made(rows, width)
    table = table_of(tasks, lambda i: ScaleAdd(made(width), made(width) if i % 2 else None))
    return Case("scale_add", (None, table), y, segments_of(rows, tasks), bytes_of(y, y, table), y.numel())


def linear(made: Made, where: tuple[int, int], width: int, out: int, *, some: bool = False) -> Case:
    """Layers of their own, heads, and some outputs of a layer."""
    rows, tasks = where

    def layer(i: int) -> Weight:
        own = max(out - i % 3, 1)
        outputs = torch.arange(own, device=made.device) * 2 if some else None
        return Weight(made(own, width, scale=width**-0.5), made(own), outputs)

    table, x, y = table_of(tasks, layer), made(rows, width), made(rows, 2 * out if some else out)
    if not some:
        y.fill_(NAN)  # all that is known is written
    return Case("linear", (x, None, table), y, segments_of(rows, tasks), bytes_of(x, y, table), 2 * rows * width * out)


def masked(made: Made, where: tuple[int, int], width: int, out: int, *, transposed: bool = False) -> Case:
    """Masks over one weight, stored as GPT-2 does too."""
    rows, tasks = where
    base = made(width, out, scale=width**-0.5).T if transposed else made(out, width, scale=width**-0.5)
    count = -(-out * width // 8)
    table = table_of(tasks, lambda i: Bits(torch.randint(0, 256, (count,), dtype=torch.uint8, device=made.device)))
    x, y, bias = made(rows, width), made(rows, out).fill_(NAN), None if transposed else made(out)
    size = bytes_of(x, y, table, base, bias)
    return Case(
        "masked_linear", (x, None, base, bias, table), y, segments_of(rows, tasks), size, 2 * rows * width * out
    )


def sparse(made: Made, where: tuple[int, int], width: int, out: int) -> Case:
    """One change in 200."""
    rows, tasks = where

    def changes(i: int) -> Sparse:
        indices = torch.arange(i % 7, out * width, 200, dtype=torch.int32, device=made.device)
        return Sparse(indices, made(len(indices)))

    table, x, y = table_of(tasks, changes), made(rows, width), made(rows, out)
    return Case(
        "sparse_add", (x, None, table), y, segments_of(rows, tasks), bytes_of(x, y, y, table),
        2 * rows * width * out // 200,
    )  # fmt: skip


def lookup(made: Made, where: tuple[int, int], width: int) -> Case:
    """Whole tables and a few rows of one."""
    rows, tasks = where
    ids = torch.arange(rows, device=made.device) * 7 % 61
    some = torch.tensor([1, 4, 30, 60], device=made.device)
    table = table_of(tasks, lambda i: Rows(made(4, width), some) if i % 2 else Rows(made(61, width)))
    y = made(rows, width)
    return Case("lookup", (ids, None, table), y, segments_of(rows, tasks), 2 * y.nbytes, 0)


def calls(made: Made) -> Iterator[tuple[str, Callable[[], Case]]]:
    """By name; the operands are made when a case is."""
    sizes = SMALL if Run.small else FULL
    (narrow, inner), (wide, widest), ranks = sizes.narrow, sizes.wide, sizes.ranks
    texts, steps, streams = sizes.encoder, sizes.decode, sizes.streams
    yield "pairs, passes", lambda: low_rank(made, texts, (narrow, narrow), ranks[:1])
    yield "pairs, passes, ranks mixed", lambda: low_rank(made, texts, (narrow, inner), ranks)
    yield "pairs, steps", lambda: low_rank(made, steps, (wide, wide), ranks[:1])
    yield "pairs, steps, ranks mixed", lambda: low_rank(made, steps, (widest, wide), ranks)
    yield "pairs, steps, many tasks", lambda: low_rank(made, streams, (wide, widest), ranks[:1])
    yield "bottlenecks", lambda: low_rank(made, texts, (narrow, narrow), (3 * ranks[1],), activation="gelu")
    yield "pairs, weighed", lambda: low_rank(made, texts, (narrow, narrow), ranks[:1], activation="relu", scaled=True)
    yield "gains, passes", lambda: scale_add(made, texts, inner)
    yield "gains, steps", lambda: scale_add(made, steps, widest)
    yield "gains, by head", lambda: scale_add(made, texts, sizes.heads[2], sizes.heads[0])
    yield "layers", lambda: linear(made, texts, narrow, narrow)
    yield "heads", lambda: linear(made, (2 * texts[1], texts[1]), narrow, 5)
    yield "some outputs", lambda: linear(made, texts, narrow, narrow // 4, some=True)
    yield "masks, passes", lambda: masked(made, texts, narrow, inner)
    yield "masks, passes, transposed", lambda: masked(made, texts, narrow, inner, transposed=True)
    yield "masks, steps", lambda: masked(made, steps, wide, wide)
    yield "sparse, passes", lambda: sparse(made, texts, narrow, inner)
    yield "sparse, steps", lambda: sparse(made, steps, wide, wide)
    yield "embeddings", lambda: lookup(made, texts, narrow)


class Whole(Protocol):
    """What is compared as a whole: calls that are no operation of one table."""

    size: int
    flops: int

    def __call__(self, kernels: Any) -> Tensor:
        """The output; comparing takes the first one."""
        ...

    def expected(self) -> Tensor:
        """In float64, after the first call."""
        ...


def wholes(made: Made, kernels: Any) -> Iterator[tuple[str, Callable[[], Whole]]]:
    """By name."""
    sizes = SMALL if Run.small else FULL
    context = sizes.context
    yield "attention of steps", lambda: Attention(made, sizes.streams[0] // 2, context)
    yield "attention of few", lambda: Attention(made, 2, 8 * context)
    if kernels.joined_low_rank is not None:
        yield "pairs, joined, steps", lambda: Joined(made, sizes.decode, sizes.wide[0])
        yield "pairs, joined, passes", lambda: Joined(made, sizes.encoder, sizes.narrow[0])


class Joined:
    """Low-rank pairs of three layers that read the same rows: queries, and keys and values a quarter as wide."""

    def __init__(self, made: Made, where: tuple[int, int], width: int) -> None:
        self.cases = [low_rank(made, where, (width, out), (8, 3)) for out in (width, width // 4, width // 4)]
        self.x: Tensor = self.cases[0].given[0]
        self.ys = [case.y.clone() for case in self.cases]
        self.segments = self.cases[0].segments
        self.size = sum(case.size for case in self.cases) - 2 * self.x.nbytes
        self.flops = sum(case.flops for case in self.cases)

    def __call__(self, kernels: Any) -> Tensor:
        """As query, key and value call it."""
        from manyhats.kernels.base import JoinedPair

        pairs = [JoinedPair(y, case.given[2], self.segments) for y, case in zip(self.ys, self.cases, strict=True)]
        kernels.joined_low_rank(self.x, pairs, self.segments)
        return torch.cat(self.ys, 1)

    def expected(self) -> Tensor:
        """Each by itself."""
        from tests.kernels.cuda.operands import wide

        found = [wide(case.y) for case in self.cases]
        for y, case in zip(found, self.cases, strict=True):
            Reference().low_rank(wide(self.x), y, wide(case.given[2]), self.segments)
        return torch.cat(found, 1)


class Attention:
    """Of the new tokens of streams to their positions in a cache, whose rows are shared among them but for the last."""

    def __init__(self, made: Made, streams: int, context: int) -> None:
        heads, kv_heads, dim = (SMALL if Run.small else FULL).heads
        self.q = made(streams, heads, dim)
        self.new = made(streams, kv_heads, dim), made(streams, kv_heads, dim)
        lengths = [1 + i * 37 % context for i in range(streams)]
        total = context * 8
        self.cache = made(total + streams, kv_heads, dim), made(total + streams, kv_heads, dim)
        for one in self.cache:
            one[total:] = NAN  # nothing has been written there
        pick = torch.Generator().manual_seed(0)
        order = torch.randperm(total, generator=pick)
        rows = [torch.cat([order[i : i + n - 1], torch.tensor([total + i])]) for i, n in enumerate(lengths)]
        bounds = torch.tensor([0, *lengths]).cumsum(0)
        first = torch.tensor([min(i % 3, n - 1) for i, n in enumerate(lengths)])
        self.rows = [rows[i][first[i] :].to(made.device) for i in range(streams)]
        self.indices = [t.to(made.device, torch.int64) for t in (torch.cat(rows), bounds, first)]
        seen = sum(map(len, self.rows))
        self.size = 2 * self.q.nbytes + 2 * seen * kv_heads * dim * self.q.element_size()
        self.flops = 4 * seen * heads * dim

    def __call__(self, kernels: Any) -> Tensor:
        """As a step calls it."""
        found: Tensor = kernels.row_attention(self.q, self.new, self.cache, *self.indices, self.q.shape[2] ** -0.5)
        return found

    def expected(self) -> Tensor:
        """In float64, a sequence at a time; after a call, which has written the new keys and values."""
        folded = self.q.shape[1] // self.cache[0].shape[1]
        found = []
        for q, rows in zip(self.q, self.rows, strict=True):
            k, v = (one[rows].double().repeat_interleave(folded, 1) for one in self.cache)
            weights = (torch.einsum("hd,nhd->hn", q.double(), k) * q.shape[1] ** -0.5).softmax(-1)
            found.append(torch.einsum("hn,nhd->hd", weights, v))
        return torch.stack(found)

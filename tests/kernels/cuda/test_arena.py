"""The structs of all tables on the device: what changes is there before the next call, in one copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.kernels.base import Bits, LowRank, ScaleAdd
from manyhats.kernels.cuda.arena import Arena
from manyhats.kernels.cuda.entries import WORDS, packed
from manyhats.kernels.cuda.tiles import LARGE, SMALL, tiles_of
from manyhats.kernels.segments import Segment, Segments, Table

CPU = torch.device("cpu")


def gain() -> ScaleAdd:
    return ScaleAdd(torch.zeros(4))


def table(*slots: int) -> Table[Any]:
    made: Table[Any] = Table()
    for slot in slots:
        made.put(slot, gain())
    return made


def assert_current(arena: Arena, *tables: Table[Any]) -> None:
    """Every slot's struct is its entry's."""
    for one in tables:
        structs = arena.structs(arena.view(one))
        for slot, entry in enumerate(one.entries):
            expected = (0,) * WORDS if entry is None else packed(entry).words
            assert tuple(structs[slot].tolist()) == expected


def test_tables_grow_and_change() -> None:
    arena = Arena(CPU)
    tables = [table(0, 3), table(70), table()]
    for step in range(60):
        tables[step % 3].put(step * 7 % 130, gain())
        if step % 4 == 0:
            tables[0].drop(0 if step % 8 else 3)
        if step % 5 == 0:
            tables.append(table(*range(step)))
        for one in tables:
            arena.view(one)
        arena.flush()
        assert_current(arena, *tables)


def test_its_bytes_grow_with_slots_and_tables() -> None:
    arena = Arena(CPU)
    before = arena.nbytes
    tables = [table(500) for _ in range(10)]
    for one in tables:
        arena.view(one)
    assert arena.nbytes >= max(before, 10 * 501 * 8 * WORDS)


def test_what_does_not_grow_stays_where_it_is() -> None:
    arena, one = Arena(CPU), table(0, 3)
    view = arena.view(one)
    arena.flush()
    address, generation = arena.structs(view).data_ptr(), arena.generation
    one.put(9, gain())
    one.drop(3)
    arena.view(one)
    arena.flush()
    assert (arena.structs(view).data_ptr(), arena.generation) == (address, generation)
    one.put(200, gain())
    arena.view(one)
    arena.flush()
    assert arena.structs(view).data_ptr() != address
    assert arena.generation == generation  # the other tables are where they were
    other = table(1 << 15)
    arena.view(other)
    arena.flush()
    assert arena.generation != generation  # and who captured any of them knows
    assert_current(arena, other)
    assert_current(arena, one)


class Copies:
    """Counts the arena's own copies to the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        from manyhats.kernels.cuda import arena

        plain = arena.to_device

        def counted(array: Any, device: torch.device) -> Any:
            self.count += 1
            return plain(array, device)

        monkeypatch.setattr(arena, "to_device", counted)


def test_a_swap_shares_the_copy_of_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    copies, arena = Copies(monkeypatch), Arena(CPU)
    tables = [table(0, 1) for _ in range(20)]
    staging = StagingBuffer(HostBuffers(CPU))
    arena.stage(tables, staging)
    arena.stage(tables, staging)  # another pass over the same rows of the batch
    staging.commit()
    arena.flush()
    assert copies.count == 0
    assert_current(arena, *tables)
    tables[4].put(1, gain())
    arena.view(tables[4])
    arena.flush()
    assert copies.count == 1  # by itself where nothing was staged
    assert_current(arena, *tables)


def test_a_pass_that_is_never_copied_leaves_the_changes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    copies, arena, one, other = Copies(monkeypatch), Arena(CPU), table(0), table(5)
    arena.stage([one], StagingBuffer(HostBuffers(CPU)))  # fails before the copy
    staging = StagingBuffer(HostBuffers(CPU))
    arena.stage([other], staging)
    staging.commit()
    arena.flush()
    assert copies.count == 0
    assert_current(arena, one, other)
    one.put(0, gain())
    arena.stage([one], StagingBuffer(HostBuffers(CPU)))
    arena.flush()  # a call of a pass that was prepared before
    assert copies.count == 1
    assert_current(arena, one, other)


def test_a_table_has_a_kind_while_its_entries_agree() -> None:
    arena, one = Arena(CPU), table(0, 1)
    kind = arena.view(one).kind
    assert kind == ("scale_add", CPU, torch.float32, 4)
    one.put(2, ScaleAdd(torch.zeros(4, dtype=torch.float64)))
    assert arena.view(one).kind is None
    one.drop(2)
    assert arena.view(one).kind == kind
    one.put(2, ScaleAdd(torch.zeros(5)))
    assert arena.view(one).kind is None


@pytest.mark.parametrize(
    "entry",
    [
        LowRank(torch.zeros(4, 6).T, torch.zeros(6, 3)),  # not contiguous
        LowRank(torch.zeros(2, 4), torch.zeros(3, 3)),
        LowRank(torch.zeros(2, 4), torch.zeros(2, 3), activation="sqrtsoftplus"),
        LowRank(torch.zeros(2, 4), torch.zeros(2, 3).half()),
        ScaleAdd(torch.zeros(4), torch.zeros(5)),
        Bits(torch.zeros(3)),
        (torch.zeros(1), torch.zeros(1)),  # a prefix, which no program reads
    ],
    ids=range(7),
)
def test_entries_that_the_programs_cannot_read_are_not_supported(entry: Any) -> None:
    one: Table[Any] = Table()
    one.put(0, entry)
    assert Arena(CPU).view(one).kind is None


@pytest.mark.parametrize("lengths", [[1, 0, 17, 16, 3], [200, 5, 64], [], [0]])
def test_tiles_cover_every_row_once(lengths: list[int]) -> None:
    starts = [2 + sum(lengths[:i]) + i for i in range(len(lengths))]
    segments = Segments(
        [Segment(start, start + n, 9 - i) for i, (start, n) in enumerate(zip(starts, lengths, strict=True))]
    )
    tiles, size = tiles_of(segments.host)
    assert size == (LARGE if sum(lengths) > 100 else SMALL)
    covered = [(row, slot) for first, count, slot in tiles.tolist() for row in range(first, first + count)]
    assert covered == [(row, slot) for start, stop, slot in segments for row in range(start, stop)]
    assert 1 <= len(tiles) <= max(sum(lengths), 1)
    assert tiles[:, 1].max() <= size
    fixed, small = tiles_of(segments.host, at_least=300, size=SMALL)
    assert (len(fixed), small) == (300, SMALL)
    assert fixed[:, 1].sum() == sum(lengths)
    padded, _ = tiles_of(segments.host, at_least=40)
    assert np.array_equal(padded[: sum(tiles[:, 1] > 0)], tiles[tiles[:, 1] > 0])
    assert not padded[len(tiles) :].any()

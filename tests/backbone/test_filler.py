"""The rows that a pass gets beside its own."""

from __future__ import annotations

import pytest
from manyhats.backbone.filler import filler, missing_rows


def test_passes_have_few_numbers_of_rows_and_few_more_rows() -> None:
    numbers = [rows + missing_rows(rows) for rows in range(1, 4097)]
    assert len(set(numbers[:512])) == 28
    assert len(set(numbers)) == 84
    assert all(0 <= number - rows <= max(7, rows / 4) for rows, number in enumerate(numbers, 1))
    assert all(missing_rows(number) == 0 for number in numbers)


@pytest.mark.parametrize(("rows", "missing"), [(1, 7), (8, 0), (65, 15), (257, 31), (513, 63), (8192, 0)])
def test_what_is_missing(rows: int, missing: int) -> None:
    assert [len(chunk.ids) for chunk in filler(rows, 3, 512)] == [missing] * bool(missing)


def test_it_is_of_pads_and_no_longer_than_a_sequence_may_be() -> None:
    (chunk,) = filler(5, 9, 512)
    assert (chunk.ids, chunk.virtual, chunk.cache_rows) == ([9] * 3, 0, None)
    (chunk,) = filler(5, None, 512)
    assert chunk.ids == [0] * 3
    assert filler(5, 9, 2) == []

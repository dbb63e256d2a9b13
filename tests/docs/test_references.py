"""The tables of settings, metrics and recipes say what the program has."""

from __future__ import annotations

import pytest

from tests.docs.references import TABLES, section


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_as_the_program_says(name: str) -> None:
    _, made = TABLES[name]
    assert section(name) == made(), "python -m tests.docs.references writes it again"

"""Tests that try things at random: some in every run, many in the slow tests."""

from __future__ import annotations

import pytest


def tried(some: int, many: int) -> pytest.MarkDecorator:
    """Gives a test `amount`, how much to try."""
    return pytest.mark.parametrize("amount", [some, pytest.param(many, marks=pytest.mark.slow)])

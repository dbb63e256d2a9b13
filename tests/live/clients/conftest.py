"""Servers for clients that are not among the tests' own packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.api.live import Live, serving


@pytest.fixture(scope="module")
def live(
    request: pytest.FixtureRequest, base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """One server for the tests of a module, of the family that `BACKBONE` names."""
    backbone = tiny.load(base_folder(getattr(request.module, "BACKBONE", "bert")))
    with serving(backbone, tmp_path_factory.mktemp("store")) as running:
        yield running

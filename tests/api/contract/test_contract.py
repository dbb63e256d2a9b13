"""schemathesis finds nothing: no status of 500 and more, and no answer that the document does not tell of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.contract.running import SEED, run, server

EXAMPLES = 3  # of each operation, beside those that follow from its form: some thousand requests


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.long)])
def test_answers_are_those_of_the_document(family: str, base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with server(base_folder(family), tmp_path / "store") as (url, tasks):
        ran = run(url, tasks, EXAMPLES, SEED)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
    assert "No issues found" in ran.stdout, "it says otherwise when it has asked nothing"

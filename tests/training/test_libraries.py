"""What is said where a library is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from manyhats.core.kinds.examples import Columns
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import ConfigurationError
from manyhats.training.files import read_examples
from manyhats.training.libraries import require


def test_a_library_that_is_there_is_given() -> None:
    assert require("json").loads("[1]") == [1]


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("sklearn", "scikit-learn, which is not installed: pip install '.\\[train\\]' in a clone of Manyhats"),
        ("accelerate", "training needs accelerate, which"),
    ],
)
def test_one_that_is_not_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, library: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=message):
        require(library)


def test_data_files_name_what_they_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match="a Parquet file needs pyarrow"):
        read_examples(tmp_path / "rows.parquet", TRAININGS["classify"], Columns())
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match="such a folder needs datasets"):
        read_examples(tmp_path, TRAININGS["classify"], Columns())

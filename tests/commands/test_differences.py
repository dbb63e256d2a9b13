"""`manyhats convert --backbone`: what is refused. `tests/live/test_differences.py` tries what PEFT itself makes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from manyhats.commands.convert import convert
from manyhats.commands.differences import materialise
from manyhats.errors import AdapterMismatch, ConfigurationError, InvalidRequest
from manyhats.formats.reader import read_adapter

from tests.references.peft import References
from tests.references.peft_recipes import DIFFERENCES


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_upload_gets_the_command(peft_references: References, peft_backbone: Any, name: str, family: str) -> None:
    with pytest.raises(AdapterMismatch, match="manyhats convert PATH OUT --backbone"):
        read_adapter(peft_references.folder("differences", family, name), peft_backbone(family))


def test_without_peft(peft_references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    folder = peft_references.folder("differences", "bert", "loha")
    with pytest.raises(ConfigurationError, match="pip install peft"):
        materialise(folder, tmp_path / "out", str(peft_references.base("bert")))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_made(tmp_path: Path, base_folder: Any) -> None:
    with pytest.raises(InvalidRequest, match="is no folder"):
        materialise(tmp_path / "nothing", tmp_path / "out", str(base_folder("bert")))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="no 'peft_type'"):
        materialise(tmp_path / "in", tmp_path / "out", str(base_folder("bert")))


def test_a_kind_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--kind is 'guess'; these are: classify"):
        convert(tmp_path, tmp_path / "out", backbone="none", kind="guess")

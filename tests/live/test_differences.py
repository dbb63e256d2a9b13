"""`manyhats convert --backbone`: the installed PEFT's other methods as plain weights, equal to its own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manyhats.commands.differences import materialise
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter

from tests import tiny
from tests.references.peft import References
from tests.references.peft_recipes import Recipe, differences, texts

pytest.importorskip("peft")
from tests.references.peft_library import compute

TEXTS = texts("differences")


@pytest.mark.parametrize("recipe", list(differences()), ids=str)
def test_equals_peft(peft_references: References, peft_backbone: Any, tmp_path: Path, recipe: Recipe) -> None:
    base, backbone = peft_references.base(recipe.family), peft_backbone(recipe.family)
    answer = compute(recipe, base, tmp_path / "in")
    with pytest.raises(AdapterMismatch, match="manyhats convert PATH OUT --backbone"):
        read_adapter(tmp_path / "in", backbone)
    assert materialise(tmp_path / "in", tmp_path / "out", str(base)) > 0
    adapter = read_adapter(tmp_path / "out", backbone)
    assert adapter.method == recipe.name
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), answer.outputs) < tiny.CLOSE

"""The installed PEFT still writes the stored files and gives the stored numbers; where not, it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.references.peft import References, differences
from tests.references.peft_recipes import MERGES, Recipe, every

pytest.importorskip("peft")
from tests.references.peft_library import attempt, merge

CHANGES_WITH_ITS_VERSION = frozenset({"peft_version"})


@pytest.mark.parametrize("recipe", every(), ids=str)
def test_gives_what_is_stored(
    peft_references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    base = peft_references.base(recipe.base).relative_to(peft_references.root)
    monkeypatch.chdir(peft_references.root)  # PEFT notes the path to the base in its files
    made = attempt(recipe, base, tmp_path)
    stored = peft_references.answer(recipe.group, recipe.family, recipe.name)
    changed = differences(stored, made, tiny.CLOSE, CHANGES_WITH_ITS_VERSION)
    assert not changed, "\n".join(changed)


@pytest.mark.parametrize("name", MERGES)
def test_merges_to_what_is_stored(peft_references: References, name: str) -> None:
    def stored(case: str) -> list[torch.Tensor]:
        return list(peft_references.answer("merging", "merging", case).outputs)

    torch.testing.assert_close(merge(name, stored("given")), stored(name)[0], atol=1e-6, rtol=0)

"""The installed PEFT still writes the stored files and gives the stored numbers; where not, it has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.references.peft import References, differences
from tests.references.peft_recipes import MERGES, Recipe, every

pytest.importorskip("peft")
from tests.references.peft_library import Contradiction, attempt, merge

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


def test_what_contradicts_the_tables_is_said(peft_references: References, tmp_path: Path) -> None:
    works, absent = (
        next(recipe for recipe in every() if (recipe.name, recipe.family) == wanted)
        for wanted in (("lora", "gpt2"), ("shira", "gpt2"))
    )
    base = peft_references.base("gpt2")
    with pytest.raises(Contradiction, match="has this adapter; take it out"):
        attempt(replace(works, absent="TypeError: "), base, tmp_path / "1")
    with pytest.raises(Contradiction, match="does not begin with the listed 'ValueError"):
        attempt(replace(absent, absent="ValueError: "), base, tmp_path / "2")
    with pytest.raises(TypeError, match="Conv1D"):
        attempt(replace(absent, absent=None), base, tmp_path / "3")

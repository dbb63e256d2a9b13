"""Recipes: the names that methods are trained under."""

from __future__ import annotations

import pytest
from manyhats.methods.registry import METHODS
from manyhats.training.recipes import RECIPES, schedule_for


def test_an_option_may_make_another_recipe_of_it() -> None:
    plain, mlp = schedule_for("prefix"), schedule_for("prefix-mlp")
    assert plain != mlp
    assert schedule_for("prefix", {"reparametrisation": "64"}) == mlp
    assert schedule_for("prefix", {"reparametrisation": 64, "length": 3}) == mlp
    for given in ({"reparametrisation": 0}, {"reparametrisation": "0"}, {"length": 3}):
        assert schedule_for("prefix", given) == plain


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_there_is(name: str) -> None:
    recipe = RECIPES[name]
    assert {member.method for member in recipe.members} <= set(METHODS)
    assert set(recipe.variants.values()) <= set(RECIPES)

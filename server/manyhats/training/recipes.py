"""All recipes, by the name that the field knows: what the methods say that they are trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS

RECIPES: dict[str, Recipe] = {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}

# What `--full` compares with.
FULL = next(name for name, recipe in RECIPES.items() if recipe.baseline)


def recipe_for(name: str, *, baselines: bool = False) -> Recipe:
    """Raises InvalidRequest for a name that there is not, with those that there are."""
    recipe = RECIPES.get(name)
    if recipe is None or (recipe.baseline and not baselines):
        known = ", ".join(sorted(name for name, one in RECIPES.items() if not one.baseline))
        raise InvalidRequest(f"no method '{name}' can be trained; these can: {known}", param="method")
    return recipe


def schedule_for(name: str, options: Mapping[str, Any] | None = None) -> Schedule:
    """The defaults of a recipe with these options. Raises InvalidRequest for one that there is not."""
    recipe = recipe_for(name, baselines=True)
    for option, variant in recipe.variants.items():
        if str((options or {}).get(option, 0)) != "0":
            recipe = RECIPES[variant]
    return recipe.schedule

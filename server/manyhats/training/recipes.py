"""All recipes of the methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS

RECIPES: dict[str, Recipe] = {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}

# The recipe of `--full`.
FULL = next(name for name, recipe in RECIPES.items() if recipe.baseline)


def recipe_for(name: str, *, baselines: bool = False) -> Recipe:
    """The recipe of that name. Raises InvalidRequest for an unknown one, with the existing names."""
    recipe = RECIPES.get(name)
    if recipe is None or (recipe.baseline and not baselines):
        known = ", ".join(sorted(name for name, one in RECIPES.items() if not one.baseline))
        raise InvalidRequest(f"no method '{name}' can be trained; these can: {known}", param="method")
    return recipe


def schedule_for(name: str, options: Mapping[str, Any] | None = None) -> Schedule:
    """The default schedule of a recipe with these options. Raises InvalidRequest for an unknown name."""
    recipe = recipe_for(name, baselines=True)
    for option, variant in recipe.variants.items():
        if str((options or {}).get(option, 0)) != "0":
            recipe = RECIPES[variant]
    return recipe.schedule

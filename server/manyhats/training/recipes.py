"""All recipes of the methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import WrongUsage
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS

RECIPES: dict[str, Recipe] = {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}

# The recipe of `--full`.
FULL = next(name for name, recipe in RECIPES.items() if recipe.baseline)
FULL_NAME = "full fine-tuning"  # as displayed


def recipe_for(name: str, *, baselines: bool = False) -> Recipe:
    """The recipe of that name. Raises WrongUsage for an unknown one, with the existing names."""
    recipe = RECIPES.get(name)
    if recipe is None or (recipe.baseline and not baselines):
        known = ", ".join(sorted(name for name, one in RECIPES.items() if not one.baseline))
        raise WrongUsage(f"no method '{name}' can be trained; these can: {known}", param="method")
    return recipe


def size_option(name: str) -> str:
    """The option that says how large a recipe's first sized method is, as the command takes it; empty without one."""
    members = recipe_for(name, baselines=True).members
    sized = [member.method for member in members if METHODS[member.method].size_option]
    if not sized:
        return ""
    option = METHODS[sized[0]].size_option
    return option if len(members) == 1 else f"{sized[0]}.{option}"


def schedule_for(name: str, options: Mapping[str, Any] | None = None) -> Schedule:
    """The default schedule of a recipe with these options. Raises WrongUsage for an unknown name."""
    recipe = recipe_for(name, baselines=True)
    for option, variant in recipe.variants.items():
        if str((options or {}).get(option, 0)) != "0":
            recipe = RECIPES[variant]
    return recipe.schedule

"""All recipes, by the name that the field knows: what the methods say that they are trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS

_ALL: dict[str, Recipe] = {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}
# Those that the field knows best stand first when all are listed or trained; any other follows.
_FIRST = (
    "lora", "rslora", "dora", "vera", "houlsby", "pfeiffer", "parallel", "bottleneck", "compacter", "invertible",
    "mam", "unipelt", "fusion", "average", "token-rows", "side", "mask", "sparse", "diff-pruning", "prefix",
    "prefix-mlp", "prompt", "p-tuning", "ia3", "bitfit", "layer-norm", "full",
)  # fmt: skip
RECIPES: dict[str, Recipe] = {name: _ALL[name] for name in _FIRST if name in _ALL} | _ALL

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

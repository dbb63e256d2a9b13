"""Recipes: what each way of adapting a backbone is trained with.

Learning rates differ by a factor of thousands between methods, since they are steps of very different things: a LoRA's
factors, a mask's scores, one number for every neuron. Those here were chosen by the validation score on small data
(`docs/training.md` has the figures, and the papers' own).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.registry import METHODS

_RECIPES: dict[str, Recipe] = {
    "side": Recipe("side", Schedule(3e-3), "Zhang et al. 2020"),
    # A step costs much beside its tokens: every score is moved. Decay would pull all scores under the threshold.
    "mask": Recipe("mask", Schedule(3e-3, batch_tokens=1024, weight_decay=0.0), "Zhao et al. 2020"),
    # Decay of a difference would be decay towards the backbone.
    "sparse": Recipe("sparse", Schedule(1e-4, weight_decay=0.0, epochs=4), "Radiya-Dixit & Wang 2020"),
    "diff-pruning": Recipe(
        "sparse", Schedule(1e-4, weight_decay=0.0, epochs=4), "Guo et al. 2021", {"relaxation": "l0"}
    ),
    # These need many steps, so they are small.
    "prefix": Recipe("prefix", Schedule(3e-2, 1e-2, batch_tokens=256), "Li & Liang 2021", peft=True),
    "prefix-mlp": Recipe(
        "prefix", Schedule(1e-4, 1e-2, batch_tokens=256), "Li & Liang 2021", {"reparametrisation": 512}, peft=True
    ),
    "prompt": Recipe(
        "prompt", Schedule(1e-1, 2e-2, batch_tokens=256, weight_decay=0.0), "Lester et al. 2021", peft=True
    ),
    "p-tuning": Recipe(
        "prompt", Schedule(3e-3, 2e-2, batch_tokens=256), "Liu et al. 2021", {"encoder": "lstm"}, peft=True
    ),
    "bitfit": Recipe("parameters", Schedule(3e-3, weight_decay=0.0), "Ben Zaken et al. 2022", {"which": "biases"}),
    "layer-norm": Recipe(
        "parameters", Schedule(6e-3, weight_decay=0.0), "Qi et al. 2022", {"which": "norms"}, peft=True
    ),
    "full": Recipe("parameters", Schedule(1e-4, 1e-3), "all weights", {"which": "all"}, baseline=True),
}
_RECIPES |= {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}
# Those that the field knows best stand first when all are listed or trained; any other follows.
_FIRST = (
    "lora", "rslora", "dora", "vera", "houlsby", "pfeiffer", "parallel", "bottleneck", "compacter", "invertible",
    "mam", "unipelt", "fusion", "average", "token-rows", "side", "mask", "sparse", "diff-pruning", "prefix",
    "prefix-mlp", "prompt", "p-tuning", "ia3", "bitfit", "layer-norm", "full",
)  # fmt: skip
RECIPES: dict[str, Recipe] = {name: _RECIPES[name] for name in _FIRST if name in _RECIPES} | _RECIPES


def recipe_for(name: str, *, baselines: bool = False) -> Recipe:
    """Raises InvalidRequest for a name that there is not, with those that there are."""
    recipe = RECIPES.get(name)
    if recipe is None or (recipe.baseline and not baselines):
        known = ", ".join(sorted(name for name, one in RECIPES.items() if not one.baseline))
        raise InvalidRequest(f"no method '{name}' can be trained; these can: {known}", param="method")
    return recipe


def schedule_for(name: str, options: Mapping[str, Any] | None = None) -> Schedule:
    """The defaults of a recipe with these options. Raises InvalidRequest for one that there is not."""
    if name == "prefix" and str((options or {}).get("reparametrisation", 0)) != "0":
        name = "prefix-mlp"
    return recipe_for(name, baselines=True).schedule

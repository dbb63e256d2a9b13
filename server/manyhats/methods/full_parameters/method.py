"""Full parameters as a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.backbone.sites import LinearSite
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_shape, in_dtype
from manyhats.methods.component import Component, size_of
from manyhats.methods.full_parameters.config import BIASES, NAME, NORMS, ParametersConfig
from manyhats.methods.full_parameters.operation import bound_parameters, own_parameter
from manyhats.methods.full_parameters.peft import BEFT, LN_TUNING, PEFT_WRITER, claim_own_parameters
from manyhats.methods.full_parameters.training import TrainableParameters
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.sites import parameter_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Parameters(Method[ParametersConfig]):
    """Tensors at a linear, embedding or norm site: the module's own parameters by their names (`weight`, `bias`)."""

    name: ClassVar[str] = NAME
    config = ParametersConfig
    peft_types = (LN_TUNING, BEFT)
    peft_writer = PEFT_WRITER
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "bitfit": Recipe(NAME, Schedule(3e-3, weight_decay=0.0), "Ben Zaken et al. 2022", {"which": "biases"}),
        "layer-norm": Recipe(NAME, Schedule(6e-3, weight_decay=0.0), "Qi et al. 2022", {"which": "norms"}, peft=True),
        "full": Recipe(NAME, Schedule(1e-4, 1e-3), "all weights", {"which": "all"}, baseline=True),
    }
    tied_to_lm_head_ok = False

    def check(self, component: Component[ParametersConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            module = parameter_site(backbone, site)
            for leaf, tensor in leaves.items():
                if isinstance(module, LinearSite) and leaf == "bias":  # added where the backbone has none
                    shape: tuple[int, ...] = module.shape[:1]
                else:
                    shape = tuple(own_parameter(backbone, site, leaf).shape)
                expect_shape(tensor, shape, f"{site}.{leaf}", backbone)

    def bind(self, component: Component[ParametersConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: in_dtype(leaves, backbone) for site, leaves in component.tensors.items()}
        bound = bound_parameters(backbone, ready)
        bound.nbytes = size_of(ready.values())
        return bound

    def reads_weights(self, component: Component[ParametersConfig], backbone: Backbone) -> bool:
        biased = (site for site, leaves in component.tensors.items() if "bias" in leaves)
        modules = (parameter_site(backbone, site) for site in biased)
        return any(isinstance(module, LinearSite) and module.bias is not None for module in modules)

    def claim_additional(self, unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[ParametersConfig] | None:
        return claim_own_parameters(unclaimed, backbone)

    def replaced_weights(self, component: Component[ParametersConfig]) -> set[str]:
        return {site for site, leaves in component.tensors.items() if "weight" in leaves}

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        which = chosen.choice("which", "biases", ("biases", "norms", "all"))
        chosen.reject_unknown()
        if which == "norms":
            norms = [site for name, site in backbone.norm.items() if not backbone.in_vocabulary_head(name)]
            names = [(site.name, leaf) for site in norms for leaf in site.parameter_names()]
            return TrainableParameters(backbone, names, NORMS)
        adaptable = [*backbone.linear.values(), *backbone.norm.values()]
        modules = [module for module in adaptable if not backbone.in_vocabulary_head(module.name)]
        if which == "all":
            tables = [site for site in backbone.embedding.values() if not backbone.in_vocabulary_head(site.name)]
            names = [(module.name, leaf) for module in (*modules, *tables) for leaf in module.parameter_names()]
            return TrainableParameters(backbone, names, "full")
        names = [(module.name, "bias") for module in modules if module.parameter("bias") is not None]
        return TrainableParameters(backbone, names, BIASES)

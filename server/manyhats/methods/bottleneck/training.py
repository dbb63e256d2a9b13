"""Trains bottleneck adapters, compacters among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyhats.errors import InvalidRequest
from manyhats.methods.base import BoundComponent, Trainable, init_gate, init_parameter, parameter_key
from manyhats.methods.bottleneck.compacter import factor_shapes
from manyhats.methods.bottleneck.config import NAME, BottleneckConfig
from manyhats.methods.bottleneck.operation import bottleneck_operation
from manyhats.methods.component import Component
from manyhats.methods.options import Options
from manyhats.methods.recipe import Member, Recipe, Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

RECIPES: dict[str, Recipe] = {
    "houlsby": Recipe(NAME, Schedule(2e-3), "Houlsby et al. 2019", {"placement": "houlsby"}),
    "pfeiffer": Recipe(NAME, Schedule(2e-3), "Pfeiffer et al. 2020", {"placement": "pfeiffer"}),
    "parallel": Recipe(NAME, Schedule(2e-3), "He et al. 2021", {"placement": "parallel"}),
    "bottleneck": Recipe(NAME, Schedule(2e-3), "Houlsby et al. 2019, or by the option placement", general=True),
    "compacter": Recipe(NAME, Schedule(6e-3, weight_decay=0.0), "Karimi Mahabadi et al. 2021", {"kronecker": 4}),
    "mam": Recipe(
        NAME,
        Schedule(1e-3, batch_tokens=256),
        "He et al. 2021",
        {"placement": "parallel"},
        additional=(Member("prefix", rate=20.0),),
    ),
    "unipelt": Recipe(
        NAME,
        Schedule(1e-3, batch_tokens=256),
        "Mao et al. 2022",
        {"placement": "pfeiffer", "gated": "yes"},
        additional=(Member("prefix", {"length": 10, "gated": "yes"}, 20.0), Member("lora", {"gated": "yes"})),
    ),
}


class TrainableBottleneck(Trainable):
    """New adapters near the identity, at some residual sites."""

    def __init__(
        self,
        backbone: Backbone,
        sites: list[str],
        width: int,
        config: BottleneckConfig,
        generator: torch.Generator,
        phm_dim: int,
    ) -> None:
        """`phm_dim`: a compacter's number of Kronecker products; 0 for other adapters."""
        super().__init__()
        self.sites = sites
        self.config = config
        self.leaves = nn.ParameterDict()
        # All sites share the rule, as in the paper; initialised as in AdapterHub.
        self.rule = init_parameter(backbone, (phm_dim,) * 3, 1e-2, generator) if phm_dim else None
        shapes = _shapes_and_stds(backbone.hidden, width, phm_dim)
        self.names = list(shapes)
        for site in sites:
            for name, (shape, std) in shapes.items():
                self.leaves[parameter_key(site, name)] = init_parameter(backbone, shape, std, generator)
            if config.use_gating:
                for name, gate in init_gate(backbone, backbone.hidden, generator).items():
                    self.leaves[parameter_key(site, name)] = gate
        if config.use_gating:
            self.names += ["gate.weight", "gate.bias"]

    def _of(self, site: str) -> dict[str, Tensor]:
        leaves: dict[str, Tensor] = {name: self.leaves[parameter_key(site, name)] for name in self.names}
        return leaves if self.rule is None else leaves | {"rule": self.rule}

    def bound(self) -> BoundComponent:
        return BoundComponent(residual={site: bottleneck_operation(self._of(site), self.config) for site in self.sites})

    def component(self) -> Component[BottleneckConfig]:
        return Component(
            NAME,
            self.config,
            {site: {n: t.detach().cpu() for n, t in self._of(site).items()} for site in self.sites},
        )


def _shapes_and_stds(hidden: int, width: int, phm_dim: int) -> dict[str, tuple[tuple[int, ...], float]]:
    """The shape and initial standard deviation of each tensor, for an adapter near the identity (Houlsby, 3.1)."""
    down, up = {"down.bias": ((width,), 0.0)}, {"up.bias": ((hidden,), 0.0)}
    if not phm_dim:
        return {"down.weight": ((width, hidden), 1e-2), **down, "up.weight": ((hidden, width), 1e-3), **up}
    factors = {name: (shape, 0.1) for name, shape in factor_shapes(hidden, width, phm_dim).items()}
    return {**factors, **down, **up}


def trainable_bottleneck(
    backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator
) -> TrainableBottleneck:
    """New adapters by the method's options. Raises InvalidRequest for an unknown option or one that does not fit."""
    chosen = Options(options, method=NAME)
    placement = chosen.choice("placement", "houlsby", ("houlsby", "pfeiffer", "parallel"))
    phm_dim = chosen.integer("kronecker", 0)
    usual = max(backbone.hidden // 16, 1)
    width = chosen.integer("width", -(-usual // phm_dim) * phm_dim if phm_dim else usual, minimum=1)
    non_linearity = chosen.choice(
        "non_linearity", "gelu" if placement == "houlsby" else "relu", ("relu", "gelu", "tanh", "swish")
    )
    gated = chosen.flag("gated")
    chosen.reject_unknown()
    if phm_dim and (width % phm_dim or backbone.hidden % phm_dim):
        raise InvalidRequest(
            f"bottleneck: kronecker must divide the width {width} and the hidden size {backbone.hidden}, "
            f"and {phm_dim} does not",
            param="kronecker",
        )
    if not backbone.residual:
        raise InvalidRequest(
            f"the blocks of {backbone.name} add attention and feed-forward at once, so a bottleneck adapter has no "
            "place there; lora, prefix and mask do",
            param="method",
        )
    config = BottleneckConfig(
        non_linearity=non_linearity,
        is_parallel=placement == "parallel",
        original_ln_before=placement == "pfeiffer",
        scaling=4.0 if placement == "parallel" else 1.0,
        use_gating=gated,
    )
    sites = [s for s in backbone.residual if placement == "houlsby" or s.endswith(".ffn")]
    return TrainableBottleneck(backbone, sites, width, config, generator, phm_dim)

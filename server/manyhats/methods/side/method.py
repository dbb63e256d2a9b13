"""Side-tuning as a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.backbone.families import FAMILIES
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_shape,
    in_dtype,
    reject_padded,
)
from manyhats.methods.component import Component
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.side.config import NAME, NETWORK, SIDE_SITE, SideConfig
from manyhats.methods.side.frame import frame_of
from manyhats.methods.side.native import NATIVE
from manyhats.methods.side.network import build_network, needed_parameters, network_leaves
from manyhats.methods.side.operation import bind_network
from manyhats.methods.side.training import TrainableSide

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Side(Method[SideConfig]):
    """Tensors at `side`: `alpha` () or (1,) or (width,), before the sigmoid; `network.<parameter>`; where the widths
    differ `projection.weight` (width, side width) and maybe `projection.bias`."""

    name: ClassVar[str] = NAME
    config = SideConfig
    native = NATIVE
    recipes: ClassVar[Mapping[str, Recipe]] = {"side": Recipe(NAME, Schedule(3e-3), "Zhang et al. 2020")}
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "prompt": "a prompt's virtual tokens mean nothing to a side network",
    }

    def non_causal(self, component: Component[SideConfig]) -> bool:
        return True  # its network reads the whole text

    def check(self, component: Component[SideConfig], backbone: Backbone) -> None:
        reject_padded(backbone, "a side network")
        if set(component.tensors) != {SIDE_SITE}:
            raise AdapterMismatch("a side network stands beside the whole backbone", param=SIDE_SITE)
        leaves = component.tensors[SIDE_SITE]
        expect_leaves(leaves, ("alpha",), SIDE_SITE)
        width = backbone.output_width
        if tuple(leaves["alpha"].shape) not in ((), (1,)):
            expect_shape(leaves["alpha"], (width,), "alpha", backbone)
        with torch.device("meta"):
            network = build_network(component.config, backbone)
        needed = needed_parameters(network, component.config)
        given = network_leaves(leaves)
        unexpected = [name for name in given if name not in needed and not name.startswith("pooler.")]
        missing = [name for name in needed if name not in given]
        if unexpected or missing:
            reason = (
                f"has no '{missing[0]}'" if missing else f"has '{unexpected[0]}', which the config's network has not"
            )
            raise AdapterMismatch(f"the side network {reason}", param=(missing or unexpected)[0])
        for name, shape in needed.items():
            expect_shape(given[name], shape, f"side.{name}", backbone)
        side_width = FAMILIES[network.config.model_type].output_width(network.config)
        if "projection.weight" in leaves:
            expect_shape(leaves["projection.weight"], (width, side_width), "projection.weight", backbone)
            if "projection.bias" in leaves:
                expect_shape(leaves["projection.bias"], (width,), "projection.bias", backbone)
        elif side_width != width:
            raise AdapterMismatch(
                f"the side network is {side_width} wide, the backbone {backbone.name} {width}; a projection is needed",
                param="projection",
            )
        unknown = [n for n in leaves if n not in ("alpha", "projection.weight", "projection.bias")]
        unknown = [n for n in unknown if not n.startswith(NETWORK)]
        if unknown:
            raise AdapterMismatch(f"a side network has no place for '{unknown[0]}'", param=unknown[0])

    def bind(self, component: Component[SideConfig], backbone: Backbone) -> BoundComponent:
        leaves = component.tensors[SIDE_SITE]
        given = {name: t for name, t in network_leaves(leaves).items() if not name.startswith("pooler.")}
        others = {name: t for name, t in leaves.items() if not name.startswith(NETWORK)}
        return bind_network(
            in_dtype(given, backbone),
            in_dtype(others, backbone),
            frame_of(component.config, backbone, backbone.dtype),
            backbone.output_width,
            on_embeddings=component.config.kind == "layers",
        )

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        layers = chosen.integer("layers", 1, minimum=1)
        start = chosen.choice("start", "copy", ("copy", "fresh"))
        chosen.reject_unknown()
        reject_padded(backbone, "a side network")
        if layers > backbone.layers:
            raise InvalidRequest(f"side: layers must be at most {backbone.layers}, not {layers}", param="layers")
        return TrainableSide(backbone, SideConfig(kind="layers", layers=layers), start, generator)

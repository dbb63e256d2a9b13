"""Bottleneck adapters as a method; see the package's docstring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    in_dtype,
)
from manyhats.methods.bottleneck.adapterhub import ARCHITECTURE
from manyhats.methods.bottleneck.compacter import check_factors, materialise
from manyhats.methods.bottleneck.config import NAME, BottleneckConfig
from manyhats.methods.bottleneck.operation import bottleneck_operation
from manyhats.methods.bottleneck.training import RECIPES, trainable_bottleneck
from manyhats.methods.component import Component, size_of

if TYPE_CHECKING:
    import torch

    from manyhats.backbone import Backbone


class Bottleneck(Method[BottleneckConfig]):
    """Tensors at a residual site: `down.weight`, `down.bias`, `up.weight`, `up.bias`; where the config has them
    `norm_before.*`, `norm_after.*`, `gate.*`, `scaling`. In a compacter `rule` (n, n, n), which its sites share, and
    `down.left`, `down.right`, `up.left`, `up.right`, (n, in / n, 1) and (n, 1, out / n), in place of the weights."""

    name: ClassVar[str] = NAME
    size_option: ClassVar[str] = "width"
    config = BottleneckConfig
    adapterhub = ARCHITECTURE
    recipes = RECIPES

    def check(self, component: Component[BottleneckConfig], backbone: Backbone) -> None:
        config = component.config
        activation(config.non_linearity)
        if config.residual_before_ln == "post_add" and not (config.original_ln_before and backbone.family.post_norm):
            raise AdapterMismatch(
                "residual_before_ln 'post_add' needs original_ln_before, and a backbone that norms after the sum",
                param="residual_before_ln",
            )
        hidden = backbone.hidden
        for site, given in component.tensors.items():
            check_factors(given, site, backbone)
            leaves = materialise(given)
            if site not in backbone.residual:
                reason = "" if backbone.residual else ": its blocks add attention and feed-forward at once"
                raise AdapterMismatch(f"the backbone {backbone.name} has no place called '{site}'{reason}", param=site)
            required = ["down.weight", "down.bias", "up.weight", "up.bias"]
            if config.ln_before:
                required += ["norm_before.weight", "norm_before.bias"]
            if config.ln_after:
                required += ["norm_after.weight", "norm_after.bias"]
            if config.use_gating:
                required += ["gate.weight", "gate.bias"]
            expect_leaves(leaves, required, site)
            width = expect_matrix(leaves["down.weight"], f"{site}.down.weight")
            shapes: dict[str, tuple[int, ...]] = {
                "down.weight": (width, hidden),
                "down.bias": (width,),
                "up.weight": (hidden, width),
                "up.bias": (hidden,),
                "gate.weight": (1, hidden),
                "gate.bias": (1,),
            }
            for name, tensor in leaves.items():
                if name not in (*required, "scaling"):
                    raise AdapterMismatch(f"the adapter's config has no place for '{site}.{name}'", param=name)
                if name == "scaling":
                    if tuple(tensor.shape) not in ((1,), (hidden,)):
                        expect_shape(tensor, (hidden,), f"{site}.scaling", backbone)
                    continue
                expect_shape(tensor, shapes.get(name, (hidden,)), f"{site}.{name}", backbone)

    def bind(self, component: Component[BottleneckConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: in_dtype(materialise(leaves), backbone) for site, leaves in component.tensors.items()}
        return BoundComponent(
            residual={site: bottleneck_operation(leaves, component.config) for site, leaves in ready.items()},
            nbytes=size_of(ready.values()),
        )

    def rank(self, component: Component[BottleneckConfig]) -> int | None:
        return max(leaves["down.bias"].shape[0] for leaves in component.tensors.values())

    def slot_size(self, component: Component[BottleneckConfig], backbone: Backbone) -> int:
        return size_of(materialise(leaves) for leaves in component.tensors.values())

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        return trainable_bottleneck(backbone, options, generator)

"""AdapterFusion as a method; see the package's docstring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape
from manyhats.methods.bottleneck import Bottleneck
from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.members import is_bottleneck, member_leaves
from manyhats.methods.component import Component
from manyhats.methods.fusion.config import NAME, FusionConfig
from manyhats.methods.fusion.operation import fusion_operation
from manyhats.methods.fusion.training import TrainableFusion
from manyhats.methods.operations import bytes_of
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Fusion(Method[FusionConfig]):
    """Tensors at a residual site: `member.<i>.<name in a bottleneck adapter>`, and where the config has them
    `query.weight`, `query.bias`, `key.weight`, `key.bias`, `value.weight`."""

    name: ClassVar[str] = NAME
    config = FusionConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "fusion": Recipe(NAME, Schedule(1e-3), "Pfeiffer et al. 2021", needs="members")
    }

    def check(self, component: Component[FusionConfig], backbone: Backbone) -> None:
        config = component.config
        if len(config.members) < 2:
            raise AdapterMismatch(f"a fusion needs two members or more, not {len(config.members)}", param="members")
        if any(member.use_gating for member in config.members):
            raise AdapterMismatch("adapters with gating cannot be members of a fusion", param="use_gating")
        for index, member in enumerate(config.members):
            sites = {site: member_leaves(leaves, index) for site, leaves in component.tensors.items()}
            own = {site: leaves for site, leaves in sites.items() if leaves}
            Bottleneck().check(Component(Bottleneck.name, member, own), backbone)
        hidden = backbone.hidden
        for site, leaves in component.tensors.items():
            if not any(member_leaves(leaves, index) for index in range(len(config.members))):
                raise AdapterMismatch(f"none of the fusion's members has an adapter at {site}", param=site)
            wanted: dict[str, tuple[int, ...]] = {}
            if config.query:
                wanted |= {"query.weight": (hidden, hidden), "query.bias": (hidden,)}
            if config.key:
                wanted |= {"key.weight": (hidden, hidden), "key.bias": (hidden,)}
            if config.value:
                wanted |= {"value.weight": (hidden, hidden)}
            expect_leaves(leaves, list(wanted), site)
            for name, tensor in leaves.items():
                if name in wanted:
                    expect_shape(tensor, wanted[name], f"{site}.{name}", backbone)
                elif not name.startswith("member."):
                    raise AdapterMismatch(f"the fusion's config has no place for '{site}.{name}'", param=name)

    def bind(self, component: Component[FusionConfig], backbone: Backbone) -> BoundComponent:
        operations = {
            site: fusion_operation({name: tensor.float() for name, tensor in leaves.items()}, component.config).to(
                backbone.dtype
            )
            for site, leaves in component.tensors.items()
        }
        return BoundComponent(residual=operations, nbytes=sum(map(bytes_of, operations.values())))

    def slot_size(self, component: Component[FusionConfig], backbone: Backbone) -> int:
        shapes = [
            fusion_operation({name: tensor.to("meta") for name, tensor in leaves.items()}, component.config)
            for leaves in component.tensors.values()
        ]
        return sum(bytes_of(operation.to(backbone.dtype)) for operation in shapes)

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        """`members`: the components that are fused, frozen."""
        chosen = Options(options, method=self.name)
        given = chosen.components("members")
        weight = chosen.number("value_regularisation", 0.01)
        chosen.reject_unknown()
        members: list[Component[BottleneckConfig]] = []
        for component in given:
            if not is_bottleneck(component):
                raise InvalidRequest(
                    f"fusion: a member is a {component.method}; bottleneck adapters can be fused", param="members"
                )
            Bottleneck().check(component, backbone)
            members.append(component)
        if len(members) < 2:
            raise InvalidRequest("fusion: two members or more are fused; name their folders", param="members")
        return TrainableFusion(backbone, members, weight, generator)

    def rank(self, component: Component[FusionConfig]) -> int | None:
        downs = [t for leaves in component.tensors.values() for name, t in leaves.items() if name.endswith("down.bias")]
        return max(down.shape[0] for down in downs)

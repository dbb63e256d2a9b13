"""Trains a fusion: the second stage of AdapterFusion, in which the members are frozen (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.methods.base import BoundComponent, Trainable, parameter_key
from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.component import Component
from manyhats.methods.fusion.config import NAME, FusionConfig, FusionFlags
from manyhats.methods.fusion.operation import fuse, fusion_operation

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_LAYERS = ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight")


class TrainableFusion(Trainable):
    """A fusion's new layers; the value layer starts near the identity."""

    def __init__(
        self,
        backbone: Backbone,
        members: Sequence[Component[BottleneckConfig]],
        regularisation: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = [member.to(backbone.device, backbone.dtype) for member in members]
        self.regularisation = regularisation
        self.sites = sorted({site for member in members for site in member.tensors})
        self.leaves = nn.ParameterDict()
        width = backbone.hidden
        for site in self.sites:
            for name in _LAYERS:
                if name == "value.weight":  # near the identity, as in AdapterHub
                    value = torch.full((width, width), 1e-6).fill_diagonal_(1.0)
                elif name.endswith("bias"):
                    value = torch.zeros(width)
                else:
                    value = torch.randn(width, width, generator=generator) * 0.02
                self.leaves[parameter_key(site, name)] = nn.Parameter(value.to(backbone.device))

    def _fused(self) -> Component[FusionConfig]:
        own = {site: {name: self.leaves[parameter_key(site, name)] for name in _LAYERS} for site in self.sites}
        return fuse(self.members, own, FusionFlags())

    def bound(self) -> BoundComponent:
        fused = self._fused()
        return BoundComponent(
            residual={site: fusion_operation(leaves, fused.config) for site, leaves in fused.tensors.items()}
        )

    def penalty(self) -> Tensor | None:
        """Keeps the values near the identity, so that the members' own outputs are mixed (section 3.2)."""
        if not self.regularisation:
            return None
        values = [self.leaves[parameter_key(site, "value.weight")] for site in self.sites]
        away = torch.stack([(v - torch.eye(len(v), device=v.device)).square().sum() for v in values])
        return self.regularisation * away.sum()

    def component(self) -> Component[FusionConfig]:
        fused = self._fused()
        tensors = {s: {n: t.detach().cpu() for n, t in leaves.items()} for s, leaves in fused.tensors.items()}
        return Component(NAME, fused.config, tensors)

"""Trains full parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.full_parameters.config import NAME, ParametersConfig
from manyhats.methods.full_parameters.operation import bound_parameters, own_parameter

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TrainableParameters(Trainable):
    """Initialised with the backbone's. `names`: the site and the parameter of each."""

    def __init__(self, backbone: Backbone, names: Sequence[tuple[str, str]], label: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = list(names)
        self.label = label
        self.values = nn.ParameterList()
        for site, leaf in self.names:
            own = own_parameter(backbone, site, leaf)
            self.values.append(nn.Parameter(own.detach().float().clone()))

    def _sites(self) -> dict[str, dict[str, Tensor]]:
        sites: dict[str, dict[str, Tensor]] = {}
        for (site, leaf), value in zip(self.names, self.values, strict=True):
            sites.setdefault(site, {})[leaf] = value
        return sites

    def bound(self) -> BoundComponent:
        return bound_parameters(self.backbone, self._sites())

    def component(self) -> Component[ParametersConfig]:
        tensors = {site: {n: t.detach().cpu() for n, t in leaves.items()} for site, leaves in self._sites().items()}
        return Component(NAME, ParametersConfig(), tensors, label=self.label)

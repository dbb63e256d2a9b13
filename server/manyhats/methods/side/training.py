"""Trains a side network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from manyhats.backbone.model import Backbone
from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.side.config import NAME, NETWORK, SIDE_SITE, SideConfig
from manyhats.methods.side.frame import frame_of
from manyhats.methods.side.network import build_network, needed_parameters
from manyhats.methods.side.operation import bind_network


class TrainableSide(Trainable):
    """Blocks of the backbone's kind, copied from its first ones or random, and alpha, which starts at 0, an equal blend
    (section 3.1)."""

    def __init__(self, backbone: Backbone, config: SideConfig, start: str, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # transformers uses the global generator
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
            network = build_network(config, backbone)
        needed = needed_parameters(network, config)
        if start == "copy":
            own = backbone.model.state_dict()
            network.load_state_dict({name: own[name] for name in needed}, strict=False)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None
        self.trained = list(needed)
        self.alpha = nn.Parameter(torch.zeros((), device=backbone.device))
        self.network = network.to(backbone.device)  # holds the parameters, and is not run
        self.frame = frame_of(config, backbone, torch.float32)
        self.width = backbone.output_width
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in needed)

    @property
    def rates(self) -> Mapping[str, float]:
        return {"alpha": 50.0}  # a single number that scales everything

    def bound(self) -> BoundComponent:
        state = dict(self.network.named_parameters())
        return bind_network(
            {name: state[name] for name in self.trained},
            {"alpha": self.alpha},
            self.frame,
            self.width,
            on_embeddings=True,
        )

    def component(self) -> Component[SideConfig]:
        state = self.network.state_dict()
        leaves = {f"{NETWORK}{name}": state[name].detach().cpu().clone() for name in self.trained}
        return Component(NAME, self.config, {SIDE_SITE: leaves | {"alpha": self.alpha.detach().cpu()}})

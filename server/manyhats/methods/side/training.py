"""Trains a side network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from manyhats.backbone.attention import PACKED_ATTENTION
from manyhats.backbone.model import Backbone
from manyhats.backbone.sites import EMBEDDED, LAST
from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.side.config import NAME, NETWORK, SIDE_SITE, SideConfig
from manyhats.methods.side.network import build_network, needed_parameters
from manyhats.methods.side.operation import SideOperation


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
        network.set_attn_implementation(PACKED_ATTENTION)
        self.inner = Backbone(network, backbone.tokenizer, name="side", device=backbone.device, dtype=torch.float32)
        self.trained = list(needed)
        self.alpha = nn.Parameter(torch.zeros((), device=backbone.device))
        self.network = network
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in needed)

    @property
    def rates(self) -> Mapping[str, float]:
        return {"alpha": 50.0}  # a single number that scales everything

    def train(self, mode: bool = True) -> TrainableSide:
        """Keeps its blocks without dropout, like the backbone's."""
        self.training = mode
        return self

    def bound(self) -> BoundComponent:
        side = SideOperation(self.inner, torch.sigmoid(self.alpha), None, on_embeddings=True)
        return BoundComponent(states={LAST: side.mix, EMBEDDED: side.catch})

    def component(self) -> Component[SideConfig]:
        state = self.network.state_dict()
        leaves = {f"{NETWORK}{name}": state[name].detach().cpu().clone() for name in self.trained}
        return Component(NAME, self.config, {SIDE_SITE: leaves | {"alpha": self.alpha.detach().cpu()}})

"""Trains LoRA, rsLoRA, DoRA and VeRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from manyhats.errors import InvalidRequest
from manyhats.kernels.base import LowRank, Weight
from manyhats.messages import first_error
from manyhats.methods.base import BoundComponent, Trainable, init_gate, pair_of, parameter_key
from manyhats.methods.component import Component
from manyhats.methods.lora.config import NAME, LoraConfig
from manyhats.methods.lora.operations import dora_gain, low_rank_operations, output_offset
from manyhats.methods.lora.vera import SharedMatrices, make_matrices, materialise
from manyhats.methods.operations import AddLowRank, Operation

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TrainableLora(Trainable):
    def __init__(
        self,
        backbone: Backbone,
        sites: Sequence[str],
        rank: int,
        scale: float,
        decomposed: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sites = list(sites)
        self.layers = [backbone.linear[site] for site in sites]
        self.scale = scale
        self.dora: Literal["peft"] | None = "peft" if decomposed else None
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        self.magnitudes = nn.ParameterList()
        for site in self.sites:
            out, width = backbone.linear[site].shape
            # PEFT's initialisation: A uniform as nn.Linear's, B zero, so that training starts from the backbone.
            a = torch.empty(rank, width)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            self.down.append(nn.Parameter(a.to(backbone.device)))
            self.up.append(nn.Parameter(torch.zeros(out, rank, device=backbone.device)))
            if decomposed:
                norms = torch.linalg.vector_norm(backbone.linear[site].weight.float(), dim=1)
                self.magnitudes.append(nn.Parameter(norms))
        self.gates = nn.ParameterDict()

    def add_gates(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Adds a gate at each site (UniPELT)."""
        for site in self.sites:
            for name, value in init_gate(backbone, backbone.linear[site].shape[1], generator).items():
                self.gates[parameter_key(site, name)] = value

    def _leaves(self) -> dict[str, dict[str, Tensor]]:
        pairs = zip(self.sites, self.down, self.up, strict=True)
        sites: dict[str, dict[str, Tensor]] = {site: {"A": a, "B": b} for site, a, b in pairs}
        for site, magnitude in zip(self.sites, self.magnitudes, strict=False):
            sites[site]["magnitude"] = magnitude
        if len(self.gates):
            for site, leaves in sites.items():
                leaves |= {name: self.gates[parameter_key(site, name)] for name in ("gate.weight", "gate.bias")}
        return sites

    def bound(self) -> BoundComponent:
        linear: dict[str, list[Operation]] = {}
        for layer, (site, leaves) in zip(self.layers, self._leaves().items(), strict=True):
            up = leaves["B"].T * self.scale
            own = pair_of(leaves, "gate")
            gate = None if own is None else Weight(*own)
            if self.dora is None:
                linear[site] = low_rank_operations(LowRank(leaves["A"], up), None, None, gate)
                continue
            # The norm is treated as a constant, as in the paper (section 4.3).
            fixed = {name: t if name == "magnitude" else t.detach() for name, t in leaves.items()}
            gain = dora_gain(fixed, layer.weight, self.scale, self.dora)
            assert gain is not None
            offset = output_offset(fixed, layer.bias, self.scale, gain, self.dora)
            linear[site] = low_rank_operations(LowRank(leaves["A"], up * gain), gain, offset, gate)
        return BoundComponent(linear=linear)

    def component(self) -> Component[LoraConfig]:
        return Component(
            NAME,
            LoraConfig(scales=dict.fromkeys(self.sites, self.scale), dora=self.dora),
            {site: {n: t.detach().cpu() for n, t in leaves.items()} for site, leaves in self._leaves().items()},
        )


class TrainableVera(Trainable):
    """The two vectors of every site. lambda_d starts at 0.1 and lambda_b at zero, as in the paper (section 4)."""

    def __init__(self, backbone: Backbone, sites: Sequence[str], rank: int, key: int) -> None:
        super().__init__()
        self.shapes = {site: backbone.linear[site].shape for site in sites}
        outputs, inputs = (max(shape[i] for shape in self.shapes.values()) for i in (0, 1))
        try:
            shared = SharedMatrices(rank=rank, key=key, outputs=outputs, inputs=inputs)
        except ValidationError as error:
            raise InvalidRequest(f"lora: {first_error(error).message}", param="rank") from None
        self.config = LoraConfig(scales=dict.fromkeys(sites, 1.0), vera=shared)
        down, up = make_matrices(shared)
        self.down, self.up = down.to(backbone.device), up.to(backbone.device)
        self.lambdas = nn.ParameterDict()
        for site, (out, _) in self.shapes.items():
            b, d = torch.zeros(out), torch.full((rank,), 0.1)
            self.lambdas[parameter_key(site, "lambda_b")] = nn.Parameter(b.to(backbone.device))
            self.lambdas[parameter_key(site, "lambda_d")] = nn.Parameter(d.to(backbone.device))

    def _leaves_of(self, site: str) -> dict[str, Tensor]:
        return {name: self.lambdas[parameter_key(site, name)] for name in ("lambda_b", "lambda_d")}

    def bound(self) -> BoundComponent:
        linear = {}
        for site, (_, width) in self.shapes.items():
            own = materialise(**self._leaves_of(site), down=self.down, up=self.up, width=width)
            linear[site] = [AddLowRank(LowRank(own["A"], own["B"].T))]
        return BoundComponent(linear=linear)

    def component(self) -> Component[LoraConfig]:
        sites = {site: {n: t.detach().cpu() for n, t in self._leaves_of(site).items()} for site in self.shapes}
        return Component(NAME, self.config, sites, label="vera")

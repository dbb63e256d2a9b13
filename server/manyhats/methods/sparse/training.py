"""Trains sparse differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.full_parameters.config import NAME as PARAMETERS
from manyhats.methods.full_parameters.config import ParametersConfig
from manyhats.methods.full_parameters.operation import bound_parameters, own_parameter
from manyhats.methods.sparse.config import NAME, SparseConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Relaxation:
    """The hard-concrete gates of diff pruning (Guo et al. 2021, section 3.1; Louizos et al. 2018, equations 10 to 12).

    z = clamp(sigmoid(log u - log(1 - u) + alpha) * (high - low) + low, 0, 1), u uniform; the penalty is the share of
    gates that are expected to be open, times `weight`.
    """

    LOW, HIGH = -1.5, 1.5  # as in the paper's appendix
    START = 5.0  # of alpha

    def __init__(self, weight: float, generator: torch.Generator) -> None:
        self.weight = weight
        self.generator = generator

    def gates(self, strengths: Tensor, *, sampled: bool) -> Tensor:
        """A gate for each strength; without `sampled`, with u = 1/2."""
        logits = strengths
        if sampled:
            u = torch.rand(strengths.shape, generator=self.generator).clamp_(1e-6, 1 - 1e-6)
            logits = strengths + torch.logit(u).to(strengths.device)
        stretched: Tensor = torch.sigmoid(logits) * (self.HIGH - self.LOW) + self.LOW
        return stretched.clamp(0, 1)

    def penalty(self, strengths: nn.ParameterList) -> Tensor:
        offset = math.log(-self.LOW / self.HIGH)
        opened = torch.stack([torch.sigmoid(s - offset).sum() for s in strengths]).sum()
        share: Tensor = opened / sum(s.numel() for s in strengths)
        return self.weight * share


class TrainableSparse(Trainable):
    """Two stages: all values are trained; then only those that moved most, again from the backbone's.

    With `pick` "values" these are single values (L0-close fine-tuning, Radiya-Dixit & Wang 2020, section 4.1; with a
    `relaxation` diff pruning), with "parameters" full weights and biases, by their mean movement.
    """

    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        names: list[tuple[str, str]],
        share: float,
        pick: str,
        relaxation: Relaxation | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names
        self.own = [own_parameter(backbone, site, leaf).detach() for site, leaf in names]
        self.share = share
        self.pick = pick
        self.relaxation = relaxation
        self.differences = nn.ParameterList(
            nn.Parameter(torch.zeros_like(own, dtype=torch.float32)) for own in self.own
        )
        self.strengths = nn.ParameterList()
        if relaxation is not None:
            for own in self.own:
                self.strengths.append(nn.Parameter(torch.full_like(own, relaxation.START, dtype=torch.float32)))
        self.values = nn.ParameterDict()  # in the second stage, by the index in `names`; their indices are buffers

    @property
    def rates(self) -> Mapping[str, float]:
        # `strengths` must fall by 5 to close a gate; the few `values` make up for all others
        return {"strengths": 500.0, "values": 30.0}

    def _differences(self) -> list[Tensor]:
        """The differences of all values, in the first stage."""
        if self.relaxation is None:
            return list(self.differences)
        gates = [self.relaxation.gates(s, sampled=self.training) for s in self.strengths]
        return [gate * difference for gate, difference in zip(gates, self.differences, strict=True)]

    @torch.no_grad()
    def advance(self) -> None:
        moved = [difference.abs() for difference in self._differences()]
        count = max(round(self.share * sum(t.numel() for t in moved)), 1)
        if self.pick == "values":
            minimum = torch.cat([t.flatten() for t in moved]).topk(count).values[-1]
            chosen = [torch.nonzero(t.flatten() >= minimum.clamp_min(1e-30))[:, 0] for t in moved]
        else:
            chosen = [torch.empty(0, dtype=torch.long, device=t.device) for t in moved]
            for i in sorted(range(len(moved)), key=lambda i: -float(moved[i].mean())):
                if moved[i].numel() <= count:
                    count -= moved[i].numel()
                    chosen[i] = torch.arange(moved[i].numel(), device=moved[i].device)
        self._keep({i: indices for i, indices in enumerate(chosen) if len(indices)})

    def _keep(self, chosen: Mapping[int, Tensor]) -> None:
        """Begins the second stage with these values of `names`."""
        self.differences, self.strengths = nn.ParameterList(), nn.ParameterList()
        for i, indices in chosen.items():
            self.register_buffer(f"indices{i}", indices)
            self.values[str(i)] = nn.Parameter(torch.zeros(len(indices), device=indices.device))

    def restore(self, stage: int, state: Mapping[str, Any]) -> None:
        if stage:
            found = {int(n.removeprefix("indices")): t for n, t in state.items() if n.startswith("indices")}
            self._keep({i: indices.to(self.own[i].device) for i, indices in found.items()})
        self.load_state_dict(state)

    def _kept(self) -> list[tuple[int, Tensor, Tensor]]:
        """(index in `names`, indices, values)."""
        return [(int(i), self.get_buffer(f"indices{i}"), values) for i, values in self.values.items()]

    def bound(self) -> BoundComponent:
        sites: dict[str, dict[str, Tensor]] = {}
        if len(self.differences):
            for (site, leaf), own, difference in zip(self.names, self.own, self._differences(), strict=True):
                sites.setdefault(site, {})[leaf] = own + difference
            return bound_parameters(self.backbone, sites)
        for i, indices, values in self._kept():
            site, leaf = self.names[i]
            changed = self.own[i].flatten().index_add(0, indices, values.to(self.own[i].dtype))
            sites.setdefault(site, {})[leaf] = changed.view(self.own[i].shape)
        return bound_parameters(self.backbone, sites)

    def penalty(self) -> Tensor | None:
        return None if self.relaxation is None or not len(self.strengths) else self.relaxation.penalty(self.strengths)

    def component(self) -> Component[Any]:
        sites: dict[str, dict[str, Tensor]] = {}
        whole = self.pick == "parameters"
        for i, indices, values in self._kept():
            site, leaf = self.names[i]
            leaves, found = sites.setdefault(site, {}), values.detach().cpu()
            if whole:
                leaves[leaf] = self.own[i].float().cpu() + found.view(self.own[i].shape)
            else:
                leaves |= {f"{leaf}.indices": indices.cpu().int(), f"{leaf}.values": found}
        if whole:
            return Component(PARAMETERS, ParametersConfig(), sites, label=NAME)
        return Component(NAME, SparseConfig(mode="add"), sites)

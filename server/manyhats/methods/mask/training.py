"""Trains a mask: a score for every weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyhats.kernels.base import Weight
from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.mask.config import NAME, MaskConfig, pack_bits
from manyhats.methods.operations import Operation, OwnWeight

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class _Threshold(torch.autograd.Function):
    """1 where the score is over the threshold; gradients pass straight through (section 3, equation 3)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


class TrainableMask(Trainable):
    """Scores (out, in) of every chosen layer. `init_scale`: the lower bound of their initial values is minus this."""

    def __init__(
        self,
        backbone: Backbone,
        sites: list[str],
        sparsity: float,
        threshold: float,
        init_scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.threshold = threshold
        self.layers = [backbone.linear[site] for site in sites]
        self.scores = nn.ParameterList()
        # Uniform over [-s, u] such that the share `initial_sparsity` lies under the threshold.
        low, high = -init_scale, (init_scale + threshold) / max(sparsity, 1e-4) - init_scale
        for site in sites:
            out, width = backbone.linear[site].shape
            scores = torch.rand(out, width, generator=generator) * (high - low) + low
            self.scores.append(nn.Parameter(scores.to(backbone.device)))

    def bound(self) -> BoundComponent:
        masked: dict[str, list[Operation]] = {}
        for layer, scores in zip(self.layers, self.scores, strict=True):
            keep = _Threshold.apply(scores, self.threshold)  # type: ignore[no-untyped-call]
            masked[layer.name] = [OwnWeight(Weight(layer.weight * keep, layer.bias))]
        return BoundComponent(linear=masked)

    def component(self) -> Component[MaskConfig]:
        tensors = {
            site: {"mask": pack_bits(scores.detach() > self.threshold)}
            for site, scores in zip(self.sites, self.scores, strict=True)
        }
        shapes = {
            site: (scores.shape[0], scores.shape[1]) for site, scores in zip(self.sites, self.scores, strict=True)
        }
        return Component(NAME, MaskConfig(shapes=shapes), tensors)

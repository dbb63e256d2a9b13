"""Mask-tuning: a bit for every weight of the chosen linear layers (Zhao et al. 2020, section 3).

    y = (W * M) x + b        M = 1[scores > threshold], one bit a weight in the file and in host memory

In a slot it stays a bit a weight where the kernels read bits; else the masked weights are dense there, so that a hot
task costs what the bare linear layer costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import Bits, Weight
from manyhats.kernels.reference import unpack_bits
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape
from manyhats.methods.component import Component, MethodConfig
from manyhats.methods.operations import Operation, OwnMask, OwnWeight
from manyhats.methods.options import Options
from manyhats.methods.sites import linear_site
from manyhats.methods.slots import slot_tables
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class MaskConfig(MethodConfig):
    """`shapes`: (out, in) of every masked weight, by site."""

    shapes: dict[str, tuple[int, int]]


def pack_bits(keep: Tensor) -> Tensor:
    """A boolean (out, in) as bytes: row-major, the first weight in the lowest bit, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy().reshape(-1), bitorder="little"))


class Mask(Method[MaskConfig]):
    """Leaf at a linear site: `mask`, uint8, ceil(out * in / 8) bytes."""

    name: ClassVar[str] = "mask"
    config = MaskConfig

    def check(self, component: Component[MaskConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("mask",), site)
            shape = linear_site(backbone, site).shape
            stated = component.config.shapes.get(site)
            if stated is None or tuple(stated) != shape:
                told = "none" if stated is None else list(stated)
                raise AdapterMismatch(
                    f"'{site}.mask' is for a weight of shape {told}, but the backbone {backbone.name} "
                    f"has {list(shape)}",
                    param=site,
                )
            if leaves["mask"].dtype != torch.uint8:
                raise AdapterMismatch(f"'{site}.mask' must be uint8, not {leaves['mask'].dtype}", param=site)
            expect_shape(leaves["mask"], ((shape[0] * shape[1] + 7) // 8,), f"{site}.mask", backbone)

    def bind(self, component: Component[MaskConfig], backbone: Backbone) -> BoundComponent:
        as_bits = slot_tables(backbone).kernels.keeps_bits
        linear: dict[str, list[Operation]] = {}
        nbytes = 0
        for site, leaves in component.tensors.items():
            place = backbone.site_of(site)
            if as_bits:
                bits = leaves["mask"].to(backbone.device)
                linear[place.name] = [OwnMask(Bits(bits))]
                nbytes += bits.nbytes
                continue
            keep = unpack_bits(leaves["mask"], component.config.shapes[site]).to(backbone.device)
            weight = place.weight.detach() * keep
            linear[place.name] = [OwnWeight(Weight(weight, place.bias))]
            nbytes += weight.nbytes
        return BoundComponent(linear=linear, nbytes=nbytes)

    def slot_size(self, component: Component[MaskConfig], backbone: Backbone) -> int:
        if slot_tables(backbone).kernels.keeps_bits:
            return component.nbytes
        return sum(backbone.site_of(site).weight.nbytes for site in component.tensors)

    def replaced_weights(self, component: Component[MaskConfig]) -> set[str]:
        return set(component.tensors)

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        targets = chosen.names("targets", ["all-linear"])
        first_layer = chosen.integer("first_layer", 0)
        sparsity = chosen.number("initial_sparsity", 0.05, most=1.0)
        threshold = chosen.number("threshold", 1e-2, least=-1.0)
        spread = chosen.number("init_scale", 2e-2)
        chosen.done()
        root = backbone.family.block.split("{i}")[0]
        sites = [s for s in target_sites(backbone, targets) if int(s.removeprefix(root).split(".")[0]) >= first_layer]
        if not sites:
            raise InvalidRequest(f"mask: the backbone has no layer {first_layer}", param="first_layer")
        return _TrainableMask(backbone, sites, sparsity, threshold, spread, generator)


class _Threshold(torch.autograd.Function):
    """1 where the score is over the threshold; gradients pass straight through (section 3, equation 3)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


class _TrainableMask(Trainable):
    def __init__(
        self,
        backbone: Backbone,
        sites: list[str],
        sparsity: float,
        threshold: float,
        spread: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.threshold = threshold
        self.places = [backbone.linear[site] for site in sites]
        self.scores = nn.ParameterList()
        # Uniform over [-s, u] such that the share `initial_sparsity` lies under the threshold.
        low, high = -spread, (spread + threshold) / max(sparsity, 1e-4) - spread
        for site in sites:
            out, width = backbone.linear[site].shape
            scores = torch.rand(out, width, generator=generator) * (high - low) + low
            self.scores.append(nn.Parameter(scores.to(backbone.device)))

    def bound(self) -> BoundComponent:
        masked: dict[str, list[Operation]] = {}
        for place, scores in zip(self.places, self.scores, strict=True):
            keep = _Threshold.apply(scores, self.threshold)  # type: ignore[no-untyped-call]
            masked[place.name] = [OwnWeight(Weight(place.weight * keep, place.bias))]
        return BoundComponent(linear=masked)

    def component(self) -> Component[MaskConfig]:
        tensors = {
            site: {"mask": pack_bits(scores.detach() > self.threshold)}
            for site, scores in zip(self.sites, self.scores, strict=True)
        }
        shapes = {
            site: (scores.shape[0], scores.shape[1]) for site, scores in zip(self.sites, self.scores, strict=True)
        }
        return Component(Mask.name, MaskConfig(shapes=shapes), tensors)

"""Mask-tuning as a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import Bits, Weight
from manyhats.kernels.reference import unpack_bits
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_leaves, expect_shape
from manyhats.methods.component import Component
from manyhats.methods.mask.config import NAME, MaskConfig
from manyhats.methods.mask.native import NATIVE
from manyhats.methods.mask.training import TrainableMask
from manyhats.methods.operations import Operation, OwnMask, OwnWeight
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.sites import linear_site
from manyhats.methods.slots import slot_tables
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Mask(Method[MaskConfig]):
    """Tensor at a linear site: `mask`, uint8, ceil(out * in / 8) bytes."""

    name: ClassVar[str] = NAME
    config = MaskConfig
    native = NATIVE
    # Large batches, since a step updates every score, whatever its tokens. No decay: it would pull scores under the
    # threshold.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "mask": Recipe(NAME, Schedule(3e-3, batch_tokens=1024, weight_decay=0.0), "Zhao et al. 2020"),
    }

    def check(self, component: Component[MaskConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("mask",), site)
            shape = linear_site(backbone, site).shape
            stated = component.config.shapes.get(site)
            if stated is None or tuple(stated) != shape:
                stated_shape = "none" if stated is None else list(stated)
                raise AdapterMismatch(
                    f"'{site}.mask' is for a weight of shape {stated_shape}, but the backbone {backbone.name} "
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
            layer = backbone.site_of(site)
            if as_bits:
                bits = leaves["mask"]
                linear[layer.name] = [OwnMask(Bits(bits))]
                nbytes += bits.nbytes
                continue
            keep = unpack_bits(leaves["mask"], component.config.shapes[site])
            weight = layer.weight.detach() * keep
            linear[layer.name] = [OwnWeight(Weight(weight, layer.bias))]
            nbytes += weight.nbytes
        return BoundComponent(linear=linear, nbytes=nbytes)

    def reads_weights(self, component: Component[MaskConfig], backbone: Backbone) -> bool:
        return not slot_tables(backbone).kernels.keeps_bits

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
        sparsity = chosen.number("initial_sparsity", 0.05, maximum=1.0)
        threshold = chosen.number("threshold", 1e-2, minimum=-1.0)
        init_scale = chosen.number("init_scale", 2e-2)
        chosen.reject_unknown()
        root = backbone.family.block.split("{i}")[0]
        sites = [s for s in target_sites(backbone, targets) if int(s.removeprefix(root).split(".")[0]) >= first_layer]
        if not sites:
            raise InvalidRequest(f"mask: the backbone has no layer {first_layer}", param="first_layer")
        return TrainableMask(backbone, sites, sparsity, threshold, init_scale, generator)

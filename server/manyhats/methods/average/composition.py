"""Averages of stored adapters: of bottleneck adapters, and of LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.methods.average.method import average_of
from manyhats.methods.bottleneck import Bottleneck
from manyhats.methods.component import Component
from manyhats.methods.composition import Composition, CompositionFields, Member
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.lora import Lora, LoraConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class AverageFields(CompositionFields):
    """`weights`: one for each member; None: all alike."""

    format: ClassVar[str] = "manyhats-average/1"

    weights: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None

    @model_validator(mode="after")
    def _has_all_weights(self) -> AverageFields:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"there are {len(self.weights)} weights for {len(self.members)} members")
        return self


def _compose(
    members: Sequence[Member], fields: AverageFields, unclaimed: UnclaimedTensors, backbone: Backbone
) -> list[Component[Any]]:
    weights = fields.weights or [1 / len(members)] * len(members)
    components = [member.single("averaged") for member in members]
    methods = {component.method for component in components}
    if methods == {Lora.name}:
        return [average_loras(components, weights)]
    if methods != {Bottleneck.name}:
        raise AdapterMismatch(
            f"adapters of the methods {', '.join(sorted(methods))} cannot be averaged; LoRAs can, and bottleneck "
            "adapters",
            param="members",
        )
    return [average_of(components, weights)]


def average_loras(components: Sequence[Component[LoraConfig]], weights: Sequence[float]) -> Component[LoraConfig]:
    """sum_i w_i s_i B_i A_i as one LoRA: the A stand one below the other, the B beside each other."""
    downs: dict[str, list[Tensor]] = {}
    ups: dict[str, list[Tensor]] = {}
    for component, weight in zip(components, weights, strict=True):
        for site, leaves in component.tensors.items():
            if set(leaves) != {"A", "B"}:
                raise AdapterMismatch(
                    f"a LoRA with {', '.join(sorted(leaves))} at {site} cannot be averaged", param=site
                )
            downs.setdefault(site, []).append(leaves["A"].float())
            ups.setdefault(site, []).append(leaves["B"].float() * (weight * component.config.scales[site]))
    tensors = {site: {"A": torch.cat(downs[site]), "B": torch.cat(ups[site], dim=1)} for site in downs}
    return replace(components[0], config=LoraConfig(scales=dict.fromkeys(tensors, 1.0)), tensors=tensors)


AVERAGE = Composition(fields=AverageFields, compose=_compose)

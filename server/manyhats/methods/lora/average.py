"""The weighted average of several LoRAs, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.methods.component import Component
from manyhats.methods.lora.config import LoraConfig


def weighted_loras(components: Sequence[Component[LoraConfig]], weights: Sequence[float]) -> Component[LoraConfig]:
    """sum_i w_i s_i B_i A_i as one LoRA: A and B are the members' concatenated along the rank.

    Raises AdapterMismatch for LoRAs with more than A and B.
    """
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

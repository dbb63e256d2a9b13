"""Merging LoRA adapters into one: linear, TIES (Yadav et al. 2023, section 3) and DARE (Yu et al. 2024, section 3.2).

As in LoRAX, the A and the B of the adapters are merged separately, with the first adapter's scale. Unlike LoRAX, DARE
divides the kept values by the density, as in the paper, and is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.methods.component import Component
from manyhats.methods.lora import Lora, LoraConfig

Strategy = Literal["linear", "ties", "dare_linear", "dare_ties"]
SignMethod = Literal["total", "frequency"]

METHOD = Lora.name  # of the members, and of the result


def merge(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    strategy: Strategy,
    density: float,
    sign: SignMethod,
    generator: torch.Generator,
) -> Tensor:
    """Merges tensors of one shape. `density`: the share of the values that TIES and DARE keep."""
    kept = [t.float() for t in tensors]
    if strategy == "ties":
        kept = [_keep_largest(t, density) for t in kept]
    elif strategy != "linear":
        kept = [_drop_at_random(t, density, generator) for t in kept]
    stacked = torch.stack(kept)
    weighted = stacked * torch.tensor(weights).view(-1, *[1] * (stacked.dim() - 1))
    if strategy in ("linear", "dare_linear"):
        return weighted.sum(0)
    signs = stacked.sign()
    elected = torch.where((stacked if sign == "total" else signs).sum(0) >= 0, 1.0, -1.0)
    agree = signs == elected
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


def _keep_largest(tensor: Tensor, density: float) -> Tensor:
    """Keeps the share of values that are largest in magnitude; the others become zero."""
    if density >= 1:
        return tensor
    flat = tensor.abs().flatten()
    mask = torch.zeros_like(flat)
    mask[flat.topk(int(density * len(flat))).indices] = 1
    return tensor * mask.view(tensor.shape)


def _drop_at_random(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keeps a random share of the values, divided by the density; the others become zero."""
    if density >= 1:
        return tensor
    keep = torch.rand(tensor.shape, generator=generator) < density
    return tensor * keep / max(density, 1e-12)


def merge_components(
    components: Sequence[Component[Any]],
    weights: Sequence[float],
    strategy: Strategy,
    density: float,
    sign: SignMethod,
    seed: int,
) -> Component[Any]:
    """Merges LoRAs into one. A layer that only some of them adapt is merged of those.

    Raises InvalidRequest for other methods, LoRAs with more than A and B, and different ranks.
    """
    found: dict[str, dict[str, list[tuple[Tensor, float]]]] = {}
    scales: dict[str, float] = {}
    for component, weight in zip(components, weights, strict=True):
        if not isinstance(component.config, LoraConfig):
            raise InvalidRequest(
                f"adapters of the method '{component.method}' cannot be merged; LoRAs can", param="ids"
            )
        for site, leaves in component.tensors.items():
            if set(leaves) != {"A", "B"}:
                raise InvalidRequest(
                    f"a LoRA with {', '.join(sorted(set(leaves) - {'A', 'B'}))} cannot be merged", param="ids"
                )
            scales.setdefault(site, component.config.scales[site])
            for leaf, tensor in leaves.items():
                found.setdefault(site, {}).setdefault(leaf, []).append((tensor, weight))
    generator = torch.Generator().manual_seed(seed)
    merged: dict[str, dict[str, Tensor]] = {}
    for site, by_leaf in sorted(found.items()):
        for leaf, pairs in sorted(by_leaf.items()):
            ranks = {tensor.shape[0 if leaf == "A" else 1] for tensor, _ in pairs}
            if len(ranks) > 1:
                raise InvalidRequest(f"LoRAs of different ranks ({sorted(ranks)}) cannot be merged", param="ids")
            tensors, own = [t for t, _ in pairs], [w for _, w in pairs]
            merged.setdefault(site, {})[leaf] = merge(tensors, own, strategy, density, sign, generator)
    return Component(METHOD, LoraConfig(scales=scales), merged)

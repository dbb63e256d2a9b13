"""Writes LoRA, DoRA and VeRA as PEFT does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.errors import InvalidRequest
from manyhats.methods.component import Component
from manyhats.methods.libraries.peft import WRAPPER, FullName, PeftFiles, PeftWriter
from manyhats.methods.lora.config import NAME, LoraConfig
from manyhats.methods.lora.vera import SharedMatrices

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _holds(component: Component[LoraConfig], backbone: Backbone) -> bool:
    """Whether it has neither biases nor embeddings, which are not written."""
    if (component.label or component.method) not in (NAME, "vera"):
        return False
    if component.config.vera is not None:
        return True
    layers = all(site in backbone.linear for site in component.tensors)
    return layers and all(leaves.keys() <= {"A", "B", "magnitude"} for leaves in component.tensors.values())


def _write(component: Component[LoraConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    if component.config.vera is not None:
        return _write_vera(component, component.config.vera, full)
    if component.config.dora == "adapterhub":
        raise InvalidRequest("AdapterHub's DoRA is not PEFT's, and cannot be written as such")
    if component.gated:
        raise InvalidRequest("PEFT's LoRA has no gate")
    ranks = {site: leaves["A"].shape[0] for site, leaves in component.tensors.items()}
    rank = next(iter(ranks.values()))
    alphas = {full(site): component.config.scales[site] * r for site, r in ranks.items()}
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alphas[full(next(iter(ranks)))],
        "rank_pattern": {full(site): r for site, r in ranks.items() if r != rank},
        "alpha_pattern": alphas if len(set(alphas.values())) > 1 else {},
        "target_modules": sorted(full(site) for site in ranks),
        "bias": "none",
        "use_rslora": False,
        "use_dora": component.config.dora is not None,
    }
    tensors = {}
    for site, leaves in component.tensors.items():
        for leaf in ("A", "B"):
            tensors[f"{WRAPPER}{full(site)}.lora_{leaf}.weight"] = leaves[leaf]
        if "magnitude" in leaves:
            tensors[f"{WRAPPER}{full(site)}.lora_magnitude_vector"] = leaves["magnitude"]
    return PeftFiles(fields, tensors)


def _write_vera(component: Component[LoraConfig], shared: SharedMatrices, full: FullName) -> PeftFiles:
    """Only the vectors are written: PEFT generates the shared matrices from the key."""
    fields = {
        "peft_type": "VERA",
        "r": shared.rank,
        "projection_prng_key": shared.key,
        "save_projection": False,
        "target_modules": sorted(full(site) for site in component.tensors),
        "bias": "none",
    }
    tensors = {
        f"{WRAPPER}{full(site)}.vera_{leaf}": tensor
        for site, leaves in component.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return PeftFiles(fields, tensors)


WRITER = PeftWriter(_holds, _write)

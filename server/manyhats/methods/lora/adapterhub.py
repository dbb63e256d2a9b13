"""AdapterHub's LoRA and DoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.adapterhub import AdapterHubArchitecture, AdapterHubFile
from manyhats.methods.libraries.adapterhub_lora import ARCHITECTURE, MODE, adapted_thirds, claim_lora, is_fused
from manyhats.methods.libraries.fields import flag
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.lora.config import NAME, LoraConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _matches(config: Mapping[str, Any]) -> bool:
    """Every `lora` except IA3, so that an unknown `composition_mode` is rejected here."""
    return config.get("architecture") == ARCHITECTURE and config.get(MODE) != "scale"


def _read(
    unclaimed: UnclaimedTensors, config: Mapping[str, Any], file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """Claims the tensors of a LoRA or DoRA."""
    sites = claim_lora(unclaimed, config, file.name, backbone)
    if config.get(MODE) != "add":
        raise AdapterMismatch(
            f"composition_mode {short_repr(config.get(MODE))} is not known; 'add' and 'scale' are", param=MODE
        )
    decomposed = flag(config, "use_dora")
    if decomposed != any("magnitude" in leaves for leaves in sites.values()):
        raise AdapterMismatch("use_dora and the tensors 'm.weight' do not agree", param="use_dora")
    gated = flag(config, "use_gating")
    if gated != any("gate.weight" in leaves for leaves in sites.values()):
        raise AdapterMismatch("use_gating and the tensors 'gate' do not agree", param="use_gating")
    rank: Any = config.get("r")
    alpha: Any = config.get("alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise InvalidRequest(f"r and alpha must be numbers, not {short_repr(rank)} and {short_repr(alpha)}", param="r")
    if _is_before_alpha(file.version or ""):
        alpha = rank  # as the library does for files of these versions
    for site, leaves in sites.items():
        if "magnitude" in leaves:
            leaves["magnitude"] = leaves["magnitude"].flatten()
        _widen(leaves, backbone.linear[site].shape[0], rank, config.get("attn_matrices"), site)
    # The library scales by the gate instead of alpha / r.
    scales = dict.fromkeys(sites, 1.0 if gated else float(alpha) / rank)
    return [Component(NAME, LoraConfig(scales=scales, dora="adapterhub" if decomposed else None), sites)]


def _is_before_alpha(version: str) -> bool:
    """Whether a file is older than `adapters` 1.1, which began to read alpha."""
    found = re.fullmatch(r"adapters\.(\d+)\.(\d+).*", version)
    return found is None or (int(found[1]), int(found[2])) < (1, 1)


def _widen(leaves: dict[str, Tensor], out: int, rank: int, matrices: Any, site: str) -> None:
    """Expands B to GPT-2's fused layer, whose q, k and v have their own pairs, concatenated in the file.

    `matrices`: the field `attn_matrices`. Raises AdapterMismatch for other shapes.
    """
    a, b = leaves.get("A"), leaves.get("B")
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or not is_fused(b.shape[0], out, site):
        return
    thirds = adapted_thirds(matrices)
    width = out // 3
    if {"magnitude", "gate.weight"} & leaves.keys():
        raise AdapterMismatch(f"DoRA and gates are not supported at the fused layer {site}", param=site)
    if a.shape[0] != rank * len(thirds) or tuple(b.shape) != (width * len(thirds), rank):
        raise AdapterMismatch(
            f"lora_A {list(a.shape)} and lora_B {list(b.shape)} of {site} are not those of {len(thirds)} matrices "
            f"of rank {rank}",
            param=site,
        )
    whole = torch.zeros(out, a.shape[0], dtype=b.dtype)
    for i, third in enumerate(thirds):
        whole[third * width : (third + 1) * width, i * rank : (i + 1) * rank] = b[i * width : (i + 1) * width]
    leaves["B"] = whole


ADAPTERHUB = AdapterHubArchitecture(description="lora", matches=_matches, read=_read)

"""AdapterHub's LoRA, DoRA and IA3, which all call themselves `lora`: `composition_mode` tells them apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.libraries.fields import flag, reject_fields
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors, claim_leaves
from manyhats.methods.lora import LoraConfig
from manyhats.methods.sites import linear_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_SILENT = {
    "architecture", "attn_matrices", "dropout", "dtype", "init_weights", "init_weights_seed", "intermediate_lora",
    "leave_out", "output_lora", "selfattn_lora", "alpha", "r", "composition_mode", "use_dora", "use_gating",
}  # fmt: skip
_MATRICES = ("q", "k", "v")  # in the order in which GPT-2's fused layer has them
_LEAVES = {
    "lora_A": "A",
    "lora_B": "B",
    "m.weight": "magnitude",
    "gate.weight": "gate.weight",
    "gate.bias": "gate.bias",
}


def lora_parts(
    unclaimed: UnclaimedTensors, inner: Mapping[str, Any], name: str, version: str, backbone: Backbone
) -> list[Component[Any]]:
    """Takes the tensors of a LoRA, DoRA or IA3."""
    reject_fields(inner, _SILENT)
    sites = _sites(unclaimed, name, backbone)
    if not sites:
        raise AdapterMismatch(f"the file has no weights of a LoRA called '{name}'", param="name")
    fused = inner.get("attn_matrices")
    mode = inner.get("composition_mode")
    if mode == "scale":
        for site, leaves in sites.items():
            if set(leaves) != {"B"}:
                raise AdapterMismatch(
                    f"an IA3 has lora_B alone, but {site} has {', '.join(sorted(leaves))}", param=site
                )
            out = backbone.linear[site].shape[0]
            vector = leaves.pop("B").flatten()
            leaves["output"] = _spread_vector(vector, out, fused, site)
        return [Component("ia3", Ia3Config(), sites)]
    if mode != "add":
        raise AdapterMismatch(
            f"composition_mode {short_repr(mode)} is not known; 'add' and 'scale' are", param="composition_mode"
        )
    if flag(inner, "use_dora") != any("magnitude" in leaves for leaves in sites.values()):
        raise AdapterMismatch("use_dora and the tensors 'm.weight' do not agree", param="use_dora")
    if flag(inner, "use_gating") != any("gate.weight" in leaves for leaves in sites.values()):
        raise AdapterMismatch("use_gating and the tensors 'gate' do not agree", param="use_gating")
    rank: Any = inner.get("r")
    alpha: Any = inner.get("alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise InvalidRequest(f"r and alpha must be numbers, not {short_repr(rank)} and {short_repr(alpha)}", param="r")
    if _before_alpha(version):
        alpha = rank  # the library forces it for files of that age
    for site, leaves in sites.items():
        if "magnitude" in leaves:
            leaves["magnitude"] = leaves["magnitude"].flatten()
        _spread(leaves, backbone.linear[site].shape[0], rank, fused, site)
    # With a gate the library multiplies by that in place of alpha / r.
    scales = dict.fromkeys(sites, 1.0 if flag(inner, "use_gating") else float(alpha) / rank)
    return [Component("lora", LoraConfig(scales=scales, dora="adapterhub" if flag(inner, "use_dora") else None), sites)]


def _before_alpha(version: str) -> bool:
    """Whether a file is older than `adapters` 1.1, which began to read alpha."""
    found = re.fullmatch(r"adapters\.(\d+)\.(\d+).*", version)
    return found is None or (int(found[1]), int(found[2])) < (1, 1)


def _sites(unclaimed: UnclaimedTensors, adapter_name: str, backbone: Backbone) -> SiteTensors:
    def place(name: str) -> tuple[str, str] | None:
        module, found, leaf = name.partition(f".loras.{adapter_name}.")
        return (linear_site(backbone, module).name, _LEAVES[leaf]) if found and leaf in _LEAVES else None

    return claim_leaves(unclaimed, place)


def _chosen(fused: Any) -> list[int]:
    """Which thirds of a fused layer's output are adapted."""
    if not isinstance(fused, list) or not fused or any(matrix not in _MATRICES for matrix in fused):
        raise InvalidRequest(
            f"attn_matrices must be a list of q, k and v, not {short_repr(fused)}", param="attn_matrices"
        )
    return [i for i, matrix in enumerate(_MATRICES) if matrix in fused]


def _is_fused(rows: int, out: int, site: str) -> bool:
    """Whether a vector or matrix of so many rows is for GPT-2's fused attention layer, of which parts are adapted."""
    return site.endswith("attn.c_attn") and rows <= out


def _spread_vector(vector: Tensor, out: int, fused: Any, site: str) -> Tensor:
    """A scale for all outputs: 1 where the fused layer is not adapted."""
    if not _is_fused(len(vector), out, site):
        return vector
    width = out // 3
    chosen = _chosen(fused)
    if len(vector) != width * len(chosen):
        raise AdapterMismatch(f"lora_B of {site} has {len(vector)} rows, not {width * len(chosen)}", param=site)
    whole = torch.ones(out)
    for piece, third in zip(torch.split(vector, width), chosen, strict=True):
        whole[third * width : (third + 1) * width] = piece
    return whole


def _spread(leaves: dict[str, Tensor], out: int, rank: int, fused: Any, site: str) -> None:
    """GPT-2's q, k and v share a layer: each has a low-rank pair of its own, one below the other in the file."""
    a, b = leaves.get("A"), leaves.get("B")
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or not _is_fused(b.shape[0], out, site):
        return
    chosen = _chosen(fused)
    width = out // 3
    if {"magnitude", "gate.weight"} & leaves.keys():
        raise AdapterMismatch(f"DoRA and gates are not supported at the fused layer {site}", param=site)
    if a.shape[0] != rank * len(chosen) or tuple(b.shape) != (width * len(chosen), rank):
        raise AdapterMismatch(
            f"lora_A {list(a.shape)} and lora_B {list(b.shape)} of {site} are not those of {len(chosen)} matrices "
            f"of rank {rank}",
            param=site,
        )
    whole = torch.zeros(out, a.shape[0], dtype=b.dtype)
    for i, third in enumerate(chosen):
        whole[third * width : (third + 1) * width, i * rank : (i + 1) * rank] = b[i * width : (i + 1) * width]
    leaves["B"] = whole

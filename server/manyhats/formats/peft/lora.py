"""PEFT's LoRA and its kin: DoRA, AdaLoRA and VeRA, all of which become low-rank pairs here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.fields import validate
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, claim, linear_in, merge
from manyhats.methods.libraries.peft_patterns import by_pattern
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.lora import LoraConfig
from manyhats.methods.vera import Shared, pair, projections

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_MOST_ALPHA = 1e6
_MOST_VALUES = 1 << 30  # of all matrices that a VeRA, a file of short vectors, stands for


def lora_part(unclaimed: UnclaimedTensors, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    """Takes the tensors of a LoRA, on linear layers and embeddings."""

    site_of = linear_in(backbone)

    def table_of(module: str) -> str:
        site = backbone.bare_name(module)
        if site not in backbone.embedding:
            raise AdapterMismatch(
                f"the adapter has weights for '{module}', but the backbone {backbone.name} has no such embedding",
                param=module,
            )
        return site

    sites, modules = claim(unclaimed, r"(.+)\.lora_(A|B)\.weight", site_of)
    tables, table_modules = claim(unclaimed, r"(.+)\.lora_embedding_(A|B)", table_of)
    if not sites and not tables:
        raise AdapterMismatch("the file has no lora_A or lora_B weights")
    biases, _ = claim(unclaimed, r"(.+)\.lora_B\.bias", site_of, "bias_B")
    magnitudes, _ = claim(
        unclaimed,
        r"(.+)\.lora_magnitude_vector(?:\.weight)?",
        lambda module: table_of(module) if backbone.bare_name(module) in backbone.embedding else site_of(module),
        "magnitude",
    )
    merge(sites, tables)
    merge(sites, biases)
    merge(sites, magnitudes)
    _flag(config, "use_dora", any("magnitude" in leaves for leaves in sites.values()), "lora_magnitude_vector")
    _flag(config, "lora_bias", bool(biases), "lora_B.bias")
    take_own_biases(unclaimed, sites, backbone)
    modules |= table_modules
    rank_of = by_pattern(config, "rank_pattern", config.get("r", 8))
    alpha_of = by_pattern(config, "alpha_pattern", config.get("lora_alpha", 8))
    scales = {
        site: _lora_scale(module, sites[site], config, rank_of(module), alpha_of(module))
        for site, module in modules.items()
    }
    _complete(sites, scales)
    return Component("lora", LoraConfig(scales=scales, dora="peft" if config.get("use_dora") else None), sites)


def _complete(sites: SiteTensors, scales: Mapping[str, float]) -> None:
    for site in sites:
        if site not in scales:
            raise AdapterMismatch(f"the adapter has no lora_A and lora_B for '{site}'", param=site)


def _flag(config: Mapping[str, Any], field: str, found: bool, tensors: str) -> None:
    if bool(config.get(field)) != found:
        raise AdapterMismatch(
            f"{field} is {short_repr(config.get(field))}, but the file has {'some' if found else 'no'} '{tensors}'",
            param=field,
        )


def take_own_biases(unclaimed: UnclaimedTensors, sites: SiteTensors, backbone: Backbone) -> None:
    """`bias` other than none: an adapted layer's bias stands in its wrapper, and replaces the backbone's."""
    own, _ = claim(unclaimed, r"(.+)\.base_layer\.(bias)", linear_in(backbone))
    for site in list(sites):
        if site in own:
            sites[site] |= own.pop(site)
    for site in own:
        raise AdapterMismatch(f"'{site}' has a bias for an adapted layer, but is not adapted", param=site)


def _lora_scale(module: str, leaves: dict[str, Tensor], config: dict[str, Any], rank: Any, alpha: Any) -> float:
    if type(rank) is not int or rank < 1:
        raise InvalidRequest(
            f"the rank of '{module}' must be a positive whole number, not {short_repr(rank)}", param="r"
        )
    if type(alpha) not in (int, float) or not abs(alpha) <= _MOST_ALPHA:
        raise InvalidRequest(
            f"lora_alpha of '{module}' must be a number of at most {_MOST_ALPHA}, not {short_repr(alpha)}",
            param="lora_alpha",
        )
    stored = leaves["A"].shape[0] if "A" in leaves and leaves["A"].dim() else rank
    if stored != rank:
        raise AdapterMismatch(
            f"lora_A of '{module}' has shape {list(leaves['A'].shape)}, but by adapter_config.json its rank is {rank}",
            param="r",
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


# ---- AdaLoRA


def adalora_part(unclaimed: UnclaimedTensors, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    """B E A with a diagonal E (Zhang et al. 2023, equation 3), E folded into A; scaled by alpha over the first rank."""
    sites, _ = claim(unclaimed, r"(.+)\.lora_(A|B|E)", linear_in(backbone))
    if not sites:
        raise AdapterMismatch("the file has no lora_A, lora_B and lora_E")
    alpha, rank = config.get("lora_alpha", 8), config.get("init_r", 12)
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not abs(alpha) <= _MOST_ALPHA:
        raise InvalidRequest(
            f"init_r and lora_alpha must be numbers, not {short_repr(rank)} and {short_repr(alpha)}", param="init_r"
        )
    for site, leaves in sites.items():
        if set(leaves) != {"A", "B", "E"}:
            raise AdapterMismatch(f"'{site}' needs lora_A, lora_B and lora_E", param=site)
        diagonal = leaves.pop("E")
        if leaves["A"].dim() != 2 or tuple(diagonal.shape) != (leaves["A"].shape[0], 1):
            raise AdapterMismatch(
                f"lora_E of '{site}' has shape {list(diagonal.shape)}, lora_A {list(leaves['A'].shape)}", param=site
            )
        leaves["A"] = leaves["A"].float() * diagonal.float()
        if not len(leaves["A"]):  # all of its rank was pruned away
            leaves["A"] = torch.zeros(1, leaves["A"].shape[1])
            leaves["B"] = torch.zeros(leaves["B"].shape[0], 1)
    take_own_biases(unclaimed, sites, backbone)
    return Component(
        "lora", LoraConfig(scales=dict.fromkeys(sites, float(alpha / (rank + 1e-5)))), sites, label="adalora"
    )


# ---- VeRA


def vera_part(unclaimed: UnclaimedTensors, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    """diag(b) B diag(d) A with A and B shared by all layers (Kopiczko et al. 2024, equation 2)."""
    sites, _ = claim(unclaimed, r"(.+)\.vera_lambda_(b|d)", linear_in(backbone))
    if not sites:
        raise AdapterMismatch("the file has no vera_lambda_b and vera_lambda_d")
    shapes = [backbone.linear[site].shape for site in sites]
    out_most, in_most = max(s[0] for s in shapes), max(s[1] for s in shapes)
    down, up = unclaimed.claim_optional(PROMPT_WRAPPER + "vera_A"), unclaimed.claim_optional(PROMPT_WRAPPER + "vera_B")
    if down is None or up is None:
        down, up = _projections(config, out_most, in_most)
    rank = down.shape[0] if down.dim() == 2 else 0
    if not rank or down.shape[1] < in_most or up.dim() != 2 or up.shape[1] != rank or up.shape[0] < out_most:
        raise AdapterMismatch(
            f"vera_A {list(down.shape)} and vera_B {list(up.shape)} do not fit layers of up to {in_most} inputs and "
            f"{out_most} outputs",
            param="vera_A",
        )
    values = sum(rank * (out + width) for out, width in shapes)
    if values > _MOST_VALUES:
        raise AdapterMismatch(
            f"VeRA's matrices of all {len(sites)} layers would have {values} values; at most {_MOST_VALUES}", param="r"
        )
    for site, leaves in sites.items():
        out, width = backbone.linear[site].shape
        for leaf, length in (("b", out), ("d", rank)):
            if leaf not in leaves or tuple(leaves[leaf].shape) != (length,):
                found = list(leaves[leaf].shape) if leaf in leaves else "missing"
                raise AdapterMismatch(f"vera_lambda_{leaf} of '{site}' is {found}, but must be [{length}]", param=site)
        leaves |= pair(leaves.pop("b").float(), leaves.pop("d").float(), down.float(), up.float(), width)
    take_own_biases(unclaimed, sites, backbone)
    return Component("lora", LoraConfig(scales=dict.fromkeys(sites, 1.0)), sites, label="vera")


def _projections(config: Mapping[str, Any], out: int, width: int) -> tuple[Tensor, Tensor]:
    """The shared matrices as PEFT makes them from the key, where the file leaves them out."""
    fields = {"rank": config.get("r", 256), "key": config.get("projection_prng_key", 0)}
    return projections(validate(Shared, fields | {"outputs": out, "inputs": width}, "adapter_config.json", "r"))

"""How PEFT's files store LoRA, rsLoRA, DoRA and AdaLoRA, all of which are read as low-rank pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.libraries.peft import (
    WRAPPER,
    FieldType,
    PeftType,
    claim,
    linear_in,
    merge,
)
from manyhats.methods.libraries.peft_fields import (
    ANY,
    FLAG,
    FLAG_OR_TEXT,
    INTEGER,
    LIST_OR_OBJECT,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
)
from manyhats.methods.libraries.peft_patterns import by_pattern
from manyhats.methods.libraries.resized import reject_resized
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.lora.config import NAME, LoraConfig
from manyhats.methods.token_rows import claim_token_rows

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_MAX_ALPHA = 1e6

# These initialisations change the backbone: the file is relative to weights that are not saved.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica", "kasa")

_LORA_FIELDS: Mapping[str, FieldType] = {
    "r": INTEGER,
    "lora_alpha": NUMBER,
    "use_rslora": FLAG,
    "rank_pattern": OBJECT,
    "alpha_pattern": OBJECT,
    "lora_dropout": NUMBER,
    "bias": ANY,
    "init_lora_weights": FLAG_OR_TEXT,
    "loftq_config": OBJECT,
    "eva_config": OBJECT,
    "corda_config": OBJECT,
    "lora_ga_config": OBJECT,
    "qalora_group_size": INTEGER,
    "megatron_core": TEXT,
    "ensure_weight_tying": FLAG,
    "use_dora": FLAG,
    "lora_bias": FLAG,
    "trainable_token_indices": LIST_OR_OBJECT,
}
_UNSUPPORTED: Mapping[str, FieldType] = {"use_qalora": FLAG, "megatron_config": OBJECT, "target_parameters": TEXTS}
_ADALORA_FIELDS: Mapping[str, FieldType] = {
    **_LORA_FIELDS,
    "target_r": INTEGER,
    "init_r": INTEGER,
    "tinit": INTEGER,
    "tfinal": INTEGER,
    "deltaT": INTEGER,
    "beta1": NUMBER,
    "beta2": NUMBER,
    "orth_reg_weight": NUMBER,
    "total_step": INTEGER,
}
_LEAVES = ("lora_A", "lora_B")


def check_fields(config: Mapping[str, Any]) -> None:
    """Raises AdapterMismatch for an unknown `bias`, and for a file that is relative to a changed backbone."""
    bias = config.get("bias", "none")
    if bias not in ("none", "all", "lora_only", "vera_only"):
        raise AdapterMismatch(f"bias {short_repr(bias)} is not known; none, all and lora_only are", param="bias")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGED_BASE):
        raise AdapterMismatch(
            f"init_lora_weights {short_repr(start)} is relative to a changed backbone; save the adapter with PEFT's "
            "`path_initial_model_for_weight_conversion`, which makes a plain LoRA of it",
            param="init_lora_weights",
        )


def _read_lora(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """A LoRA or DoRA, after full layers that it acts on, and before trained tokens."""
    lora = _claim_lora(unclaimed, config, backbone)
    components: list[Component[Any]] = [lora]
    table = _claim_base_layers(unclaimed, lora, backbone)
    if table is not None:
        components.insert(0, table)  # the LoRA on an embedding acts on this table
    if config.get("trainable_token_indices"):
        rows = claim_token_rows(unclaimed, config["trainable_token_indices"], backbone)
        if rows is None:
            raise AdapterMismatch("the file has no 'trainable_tokens_delta'", param="trainable_token_indices")
        components.append(rows)
    return components


def _claim_lora(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> Component[LoraConfig]:
    """The tensors of a LoRA, on linear layers and embeddings."""

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
    _check_flag(config, "use_dora", any("magnitude" in leaves for leaves in sites.values()), "lora_magnitude_vector")
    _check_flag(config, "lora_bias", bool(biases), "lora_B.bias")
    claim_own_biases(unclaimed, sites, backbone)
    modules |= table_modules
    rank_of = by_pattern(config, "rank_pattern", config.get("r", 8))
    alpha_of = by_pattern(config, "alpha_pattern", config.get("lora_alpha", 8))
    scales = {
        site: _lora_scale(module, sites[site], config, rank_of(module), alpha_of(module))
        for site, module in modules.items()
    }
    _check_scaled(sites, scales)
    return Component(NAME, LoraConfig(scales=scales, dora="peft" if config.get("use_dora") else None), sites)


def _check_scaled(sites: SiteTensors, scales: Mapping[str, float]) -> None:
    for site in sites:
        if site not in scales:
            raise AdapterMismatch(f"the adapter has no lora_A and lora_B for '{site}'", param=site)


def _check_flag(config: Mapping[str, Any], field: str, found: bool, tensors: str) -> None:
    if bool(config.get(field)) != found:
        raise AdapterMismatch(
            f"{field} is {short_repr(config.get(field))}, but the file has {'some' if found else 'no'} '{tensors}'",
            param=field,
        )


def claim_own_biases(unclaimed: UnclaimedTensors, sites: SiteTensors, backbone: Backbone) -> None:
    """`bias` other than none: the biases of adapted layers, which replace the backbone's."""
    own, _ = claim(unclaimed, r"(.+)\.base_layer\.(bias)", linear_in(backbone))
    for site in list(sites):
        if site in own:
            sites[site] |= own.pop(site)
    for site in own:
        raise AdapterMismatch(f"'{site}' has a bias for an adapted layer, but is not adapted", param=site)


def _lora_scale(module: str, leaves: dict[str, Tensor], config: Mapping[str, Any], rank: Any, alpha: Any) -> float:
    if type(rank) is not int or rank < 1:
        raise InvalidRequest(
            f"the rank of '{module}' must be a positive whole number, not {short_repr(rank)}", param="r"
        )
    if type(alpha) not in (int, float) or not abs(alpha) <= _MAX_ALPHA:
        raise InvalidRequest(
            f"lora_alpha of '{module}' must be a number of at most {_MAX_ALPHA}, not {short_repr(alpha)}",
            param="lora_alpha",
        )
    stored = leaves["A"].shape[0] if "A" in leaves and leaves["A"].dim() else rank
    if stored != rank:
        raise AdapterMismatch(
            f"lora_A of '{module}' has shape {list(leaves['A'].shape)}, but by adapter_config.json its rank is {rank}",
            param="r",
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _claim_base_layers(
    unclaimed: UnclaimedTensors, lora: Component[LoraConfig], backbone: Backbone
) -> Component[ParametersConfig] | None:
    """The full embedding or output layer that PEFT saves with a LoRA on it, where it differs from the backbone's.

    Raises AdapterMismatch for one of another size, and with a DoRA, whose norms are computed of the backbone's.
    """
    sites: SiteTensors = {}
    for name in unclaimed.names():
        module, found, _ = name.removeprefix(WRAPPER).partition(".base_layer.weight")
        site = backbone.find(backbone.bare_name(module)) if found else None
        own = None if site is None else site.parameter("weight")
        if site is None or own is None:
            continue
        tensor = site.to_canonical("weight", unclaimed.claim(name))
        reject_resized(tensor, own, module, backbone)
        if equal_weights(tensor, own):
            continue
        if "magnitude" in lora.tensors.get(site.name, ()):
            raise AdapterMismatch(
                f"the file brings weights for '{module}' that are not the backbone's own, with a DoRA on them, which "
                "is not supported; save the adapter with save_embedding_layers=False if they were not trained",
                param=name,
            )
        sites[site.name] = {"weight": tensor}
    return Component("parameters", ParametersConfig(), sites) if sites else None


def _read_adalora(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """B E A with a diagonal E (Zhang et al. 2023, equation 3), E folded into A; scaled by alpha over the first rank."""
    sites, _ = claim(unclaimed, r"(.+)\.lora_(A|B|E)", linear_in(backbone))
    if not sites:
        raise AdapterMismatch("the file has no lora_A, lora_B and lora_E")
    alpha, rank = config.get("lora_alpha", 8), config.get("init_r", 12)
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not abs(alpha) <= _MAX_ALPHA:
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
    claim_own_biases(unclaimed, sites, backbone)
    scales = dict.fromkeys(sites, float(alpha / (rank + 1e-5)))
    return [Component(NAME, LoraConfig(scales=scales), sites, label="adalora")]


LORA = PeftType(
    "LORA",
    _read_lora,
    _LORA_FIELDS,
    leaves=(*_LEAVES, "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "trainable_tokens_delta"),
    unsupported=_UNSUPPORTED,
    check=check_fields,
)
ADALORA = PeftType(
    "ADALORA",
    _read_adalora,
    _ADALORA_FIELDS,
    leaves=(*_LEAVES, "lora_E"),
    unsupported=_UNSUPPORTED,
    check=check_fields,
)

"""Writes adapters as PEFT does, so that PEFT and the servers that read its files load them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.sites import LM_HEAD
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.heads import head_layers
from manyhats.formats.peft.names import WEIGHTS
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.heads import Head
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, WRAPPER
from manyhats.methods.lora import LoraConfig
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig
from manyhats.methods.token_rows import TokenRowsConfig
from manyhats.methods.vera import Shared

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

Written = tuple[dict[str, Any], dict[str, Tensor]]  # fields of the config, tensors
Full = Callable[[str], str]  # a site's whole name in the model that was trained

_WRITTEN = ("lora", "vera", "prefix", "prompt", "ia3", "ln", "token_rows")


def holds(adapter: Adapter, backbone: Backbone) -> bool:
    """Whether it is of a method of PEFT's, and files as `write` makes them have a place for everything in it."""
    if adapter.method not in _WRITTEN or any(part.gated for part in adapter.components):
        return False
    (part,) = adapter.components
    match part.config:
        case LoraConfig() if part.config.vera is None:  # biases and embeddings are not written
            layers = all(site in backbone.linear for site in part.tensors)
            return layers and all(leaves.keys() <= {"A", "B", "magnitude"} for leaves in part.tensors.values())
        case PrefixConfig():  # a prefix of PEFT's is for all layers, and moves positions on
            return part.config.shift_positions and not part.config.left_out
        case TokenRowsConfig():  # a language-model head with the same rows is a second place
            return len(part.tensors) == 1
        case _:
            return True


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a LoRA, prefix, prompt, IA3, norm or trained tokens as PEFT does.

    Raises InvalidRequest for what PEFT has no place for.
    """
    (part,) = adapter.components
    # For embeddings the bare model is trained.
    prefix = "" if KINDS[adapter.kind].ends_in_states else backbone.prefix + "."

    def full(site: str) -> str:
        return site if site == LM_HEAD else prefix + site

    fields, tensors = _method(part, full, backbone)
    config = {
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        "task_type": KINDS[adapter.kind].libraries.peft,
    } | fields
    if adapter.head is not None:
        # PEFT adds the name of another head layer by itself, and wraps twice what is named twice.
        if KINDS[adapter.kind].libraries.head_layer is None:
            config["modules_to_save"] = ["classifier", "score"]
        wrapper = PROMPT_WRAPPER if part.method in ("prefix", "prompt") else WRAPPER
        tensors |= _head(adapter.head, wrapper, backbone)
    write_json(folder / "adapter_config.json", config)
    write_tensors(folder / WEIGHTS, tensors)


def _head(head: Head, wrapper: str, backbone: Backbone) -> dict[str, Tensor]:
    """The family's own head, whose layers must be as many."""
    layout, token_layer = backbone.task_heads.classification, backbone.task_heads.tokens
    if layout is None or token_layer is None:
        raise InvalidRequest(f"PEFT's files do not hold the whole head of {backbone.config.model_type} models")
    names = head_layers(head.kind, layout.linears, token_layer)
    if len(names) != len(head.layers):
        raise InvalidRequest(
            f"PEFT's files hold the family's own head, which has {len(names)} layers and not {len(head.layers)}"
        )
    tensors = {}
    for name, layer in zip(names, head.layers, strict=True):
        tensors[f"{wrapper}{name}.weight"] = layer.weight
        if layer.bias is not None:
            tensors[f"{wrapper}{name}.bias"] = layer.bias
    return tensors


def _method(part: Component[Any], full: Full, backbone: Backbone) -> Written:
    match part.config:
        case LoraConfig() if part.config.vera is not None:
            return _vera(part, part.config.vera, full)
        case LoraConfig():
            return _lora(part, part.config, full)
        case Ia3Config():
            return _ia3(part, full)
        case PromptConfig():
            return _prompt(part, part.config, backbone)
        case PrefixConfig():
            return _prefix(part, part.config, backbone)
        case ParametersConfig() if all(site in backbone.norm for site in part.tensors):
            return _norms(part, full)
        case TokenRowsConfig():
            return _token_rows(part, full)
        case _:
            raise InvalidRequest(f"PEFT has no format for the method {part.method}")


def _lora(part: Component[Any], config: LoraConfig, full: Full) -> Written:
    if config.dora == "adapterhub":
        raise InvalidRequest("AdapterHub's DoRA is not PEFT's, and cannot be written as such")
    if part.gated:
        raise InvalidRequest("PEFT's LoRA has no gate")
    ranks = {site: leaves["A"].shape[0] for site, leaves in part.tensors.items()}
    rank = next(iter(ranks.values()))
    alphas = {full(site): config.scales[site] * r for site, r in ranks.items()}
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alphas[full(next(iter(ranks)))],
        "rank_pattern": {full(site): r for site, r in ranks.items() if r != rank},
        "alpha_pattern": alphas if len(set(alphas.values())) > 1 else {},
        "target_modules": sorted(full(site) for site in ranks),
        "bias": "none",
        "use_rslora": False,
        "use_dora": config.dora is not None,
    }
    tensors = {}
    for site, leaves in part.tensors.items():
        for leaf in ("A", "B"):
            tensors[f"{WRAPPER}{full(site)}.lora_{leaf}.weight"] = leaves[leaf]
        if "magnitude" in leaves:
            tensors[f"{WRAPPER}{full(site)}.lora_magnitude_vector"] = leaves["magnitude"]
    return fields, tensors


def _vera(part: Component[Any], shared: Shared, full: Full) -> Written:
    """The shared matrices are made anew from the key, so the file is the vectors alone."""
    fields = {
        "peft_type": "VERA",
        "r": shared.rank,
        "projection_prng_key": shared.key,
        "save_projection": False,
        "target_modules": sorted(full(site) for site in part.tensors),
        "bias": "none",
    }
    tensors = {
        f"{WRAPPER}{full(site)}.vera_{leaf}": tensor
        for site, leaves in part.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return fields, tensors


def _ia3(part: Component[Any], full: Full) -> Written:
    inputs = [site for site, leaves in part.tensors.items() if "input" in leaves]
    if any(set(leaves) == {"input", "output"} for leaves in part.tensors.values()):
        raise InvalidRequest("PEFT rescales what a layer reads, or what it gives, and not both")
    fields = {
        "peft_type": "IA3",
        "target_modules": sorted(full(site) for site in part.tensors),
        "feedforward_modules": sorted(full(site) for site in inputs),
    }
    tensors = {
        f"{WRAPPER}{full(site)}.ia3_l": leaves["input"][None, :] if "input" in leaves else leaves["output"][:, None]
        for site, leaves in part.tensors.items()
    }
    return fields, tensors


def _prompt(part: Component[Any], config: PromptConfig, backbone: Backbone) -> Written:
    """P-tuning's too, whose encoder is folded in."""
    if config.after_embeddings:
        raise InvalidRequest("PEFT's prompts stand in place of word embeddings, not behind the embedding block")
    prompt = part.tensors[PROMPT_SITE]["prompt"]
    fields = {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": int(backbone.config.num_attention_heads),
        "num_layers": backbone.layers,
    }
    return fields, {"prompt_embeddings": prompt}


def _prefix(part: Component[Any], config: PrefixConfig, backbone: Backbone) -> Written:
    """PEFT's tensor is (length, 2 * layers * heads * dim)."""
    if part.gated:
        raise InvalidRequest("PEFT's prefixes have no gate")
    heads, dim = backbone.kv_shape
    fields = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": config.length,
        "token_dim": heads * dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": backbone.layers,
        "encoder_hidden_size": backbone.hidden,
        "prefix_projection": False,
    }
    rows = [part.tensors[layer_site(i)][leaf] for i in range(backbone.layers) for leaf in ("keys", "values")]
    return fields, {"prompt_embeddings": torch.stack(rows, dim=1).reshape(config.length, -1)}


def _norms(part: Component[Any], full: Full) -> Written:
    tensors = {
        f"{WRAPPER}{full(site)}.ln_tuning_layers.{leaf}": tensor
        for site, leaves in part.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return {"peft_type": "LN_TUNING", "target_modules": sorted(full(site) for site in part.tensors)}, tensors


def _token_rows(part: Component[Any], full: Full) -> Written:
    (site,) = part.tensors
    leaves = part.tensors[site]
    fields = {
        "peft_type": "TRAINABLE_TOKENS",
        "target_modules": [full(site).rpartition(".")[2]],
        "token_indices": leaves["ids"].tolist(),
    }
    return fields, {f"{WRAPPER}{full(site)}.trainable_tokens_delta": leaves["rows"]}

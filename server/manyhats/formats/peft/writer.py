"""Writes adapters as PEFT does, so that PEFT and the servers that read its files load them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.sites import LM_HEAD
from manyhats.errors import InvalidRequest
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.peft.names import WEIGHTS, WRAPPER
from manyhats.methods.adapter import Adapter
from manyhats.methods.lora import LoraConfig
from manyhats.methods.prefix import PrefixConfig, layer_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a LoRA or prefix adapter as PEFT does, so that PEFT and the servers that read its files load it."""
    (part,) = adapter.parts
    prefix = backbone.prefix + "."
    task_type = {
        "classify": "SEQ_CLS",
        "regress": "SEQ_CLS",
        "tokens": "TOKEN_CLS",
        "embed": "FEATURE_EXTRACTION",
        "generate": "CAUSAL_LM",
    }
    config: dict[str, Any] = {
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        "task_type": task_type[adapter.kind],
    }
    tensors: dict[str, Tensor] = {}
    if adapter.head is not None:
        config["modules_to_save"] = ["classifier", "score"]
        family = backbone.family
        if family.classification_head is None or family.token_head is None:
            raise InvalidRequest(f"PEFT's files do not hold the whole head of {backbone.config.model_type} models")
        names = (family.token_head,) if adapter.kind == "tokens" else family.classification_head.linears
        if len(names) != len(adapter.head.layers):
            raise InvalidRequest(
                f"PEFT's files hold the family's own head, which has {len(names)} layers and not "
                f"{len(adapter.head.layers)}"
            )
        wrapper = WRAPPER if part.method == "lora" else "base_model."
        for name, layer in zip(names, adapter.head.layers, strict=True):
            tensors[f"{wrapper}{name}.weight"] = layer.weight
            if layer.bias is not None:
                tensors[f"{wrapper}{name}.bias"] = layer.bias
    elif adapter.kind == "embed":
        prefix = ""  # trained on the bare model

    def full(site: str) -> str:
        return site if site == LM_HEAD else prefix + site

    if isinstance(part.config, LoraConfig):
        ranks = {site: leaves["A"].shape[0] for site, leaves in part.tensors.items()}
        rank = next(iter(ranks.values()))
        alphas = {full(site): part.config.scales[site] * r for site, r in ranks.items()}
        config |= {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alphas[full(next(iter(ranks)))],
            "rank_pattern": {full(site): r for site, r in ranks.items() if r != rank},
            "alpha_pattern": alphas if len(set(alphas.values())) > 1 else {},
            "target_modules": sorted(full(site) for site in ranks),
            "bias": "none",
            "use_rslora": False,
        }
        for site, leaves in part.tensors.items():
            for leaf in ("A", "B"):
                tensors[f"{WRAPPER}{full(site)}.lora_{leaf}.weight"] = leaves[leaf]
    elif isinstance(part.config, PrefixConfig):
        heads, dim = backbone.kv_shape
        config |= {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": part.config.length,
            "token_dim": heads * dim,
            "num_transformer_submodules": 1,
            "num_attention_heads": heads,
            "num_layers": backbone.layers,
            "encoder_hidden_size": backbone.hidden,
            "prefix_projection": False,
        }
        rows = [part.tensors[layer_site(i)][leaf] for i in range(backbone.layers) for leaf in ("keys", "values")]
        tensors["prompt_embeddings"] = _stack(rows)
    else:
        raise InvalidRequest(f"PEFT has no format for the method {part.method}")
    write_json(folder / "adapter_config.json", config)
    write_tensors(folder / WEIGHTS, tensors)


def _stack(rows: list[Tensor]) -> Tensor:
    """2 * layers tensors (length, heads, dim) to PEFT's (length, 2 * layers * heads * dim)."""
    return torch.stack(rows, dim=1).reshape(rows[0].shape[0], -1)

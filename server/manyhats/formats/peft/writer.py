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
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.lora import LoraConfig
from manyhats.methods.parameters import ParametersConfig
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a LoRA, prefix, prompt, IA3 or norm adapter as PEFT does.

    Raises InvalidRequest for what PEFT has no place for.
    """
    (part,) = adapter.parts
    prefix = backbone.prefix + "."
    task_type = {
        "classify": "SEQ_CLS",
        "regress": "SEQ_CLS",
        "tokens": "TOKEN_CLS",
        "span": "QUESTION_ANS",
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
        if adapter.kind != "span":  # PEFT adds the name of that head by itself, and wraps twice what is named twice
            config["modules_to_save"] = ["classifier", "score"]
        family = backbone.family
        if family.classification_head is None or family.token_head is None:
            raise InvalidRequest(f"PEFT's files do not hold the whole head of {backbone.config.model_type} models")
        names = {"tokens": (family.token_head,), "span": ("qa_outputs",)}.get(
            adapter.kind, family.classification_head.linears
        )
        if len(names) != len(adapter.head.layers):
            raise InvalidRequest(
                f"PEFT's files hold the family's own head, which has {len(names)} layers and not "
                f"{len(adapter.head.layers)}"
            )
        wrapper = "base_model." if part.method in ("prefix", "prompt") else WRAPPER
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
            "use_dora": part.config.dora is not None,
        }
        if part.config.dora == "adapterhub":
            raise InvalidRequest("AdapterHub's DoRA is not PEFT's, and cannot be written as such")
        for site, leaves in part.tensors.items():
            for leaf in ("A", "B"):
                tensors[f"{WRAPPER}{full(site)}.lora_{leaf}.weight"] = leaves[leaf]
            if "magnitude" in leaves:
                tensors[f"{WRAPPER}{full(site)}.lora_magnitude_vector"] = leaves["magnitude"]
    elif isinstance(part.config, Ia3Config):
        inputs = [site for site, leaves in part.tensors.items() if "input" in leaves]
        if any(set(leaves) == {"input", "output"} for leaves in part.tensors.values()):
            raise InvalidRequest("PEFT rescales what a layer reads, or what it gives, and not both")
        config |= {
            "peft_type": "IA3",
            "target_modules": sorted(full(site) for site in part.tensors),
            "feedforward_modules": sorted(full(site) for site in inputs),
        }
        for site, leaves in part.tensors.items():
            vector = leaves["input"][None, :] if "input" in leaves else leaves["output"][:, None]
            tensors[f"{WRAPPER}{full(site)}.ia3_l"] = vector
    elif isinstance(part.config, PromptConfig):
        prompt = part.tensors[PROMPT_SITE]["prompt"]
        if part.config.after_embeddings:
            raise InvalidRequest("PEFT's prompts stand in place of word embeddings, not behind the embedding block")
        config |= {  # of P-tuning too: its encoder is folded in
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "num_virtual_tokens": len(prompt),
            "token_dim": prompt.shape[1],
            "num_transformer_submodules": 1,
            "num_attention_heads": int(backbone.config.num_attention_heads),
            "num_layers": backbone.layers,
        }
        tensors["prompt_embeddings"] = prompt
    elif isinstance(part.config, ParametersConfig) and all(site in backbone.norm for site in part.tensors):
        config |= {"peft_type": "LN_TUNING", "target_modules": sorted(full(site) for site in part.tensors)}
        for site, leaves in part.tensors.items():
            for leaf, tensor in leaves.items():
                tensors[f"{WRAPPER}{full(site)}.ln_tuning_layers.{leaf}"] = tensor
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

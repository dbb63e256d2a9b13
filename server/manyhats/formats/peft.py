"""PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (PEFT 0.21).

Reading is driven by the tensors: every one must find its site. From the config come only scales and flags, and a
field that changes the answer and is not served is refused, never ignored.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import Remaining, read_tensors, shown, text_or_none, write_json, write_tensors
from manyhats.formats.heads import family_head, sequence_kind
from manyhats.methods.adapter import Adapter
from manyhats.methods.base import Part
from manyhats.methods.heads import Head, Kind
from manyhats.methods.lora import LoraConfig
from manyhats.methods.prefix import PrefixConfig, layer_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

WEIGHTS = "adapter_model.safetensors"
_WRAPPER = "base_model.model."

# Fields of every config that say nothing about the answer: bookkeeping, matching (the tensors say what is adapted)
# and training. Whatever is in neither list below must be empty, false or zero.
_BOOKKEEPING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "task_type", "modules_to_save",
}  # fmt: skip
_UNDERSTOOD: dict[str, set[str]] = {
    "LORA": {
        "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
        "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "bias", "init_lora_weights",
        "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core",
        "runtime_config", "ensure_weight_tying",
    },
    "PREFIX_TUNING": {
        "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
        "encoder_hidden_size", "prefix_projection", "init_weights",
    },
}  # fmt: skip

# These start LoRA from a changed backbone: the file is relative to weights that nobody has.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")

_MOST_ALPHA = 1e6
_PATTERN_LENGTH = 200  # characters
_REPETITIONS = 4  # of `*`, `+` and `{` in one pattern

_TASK_KINDS: dict[str, Kind] = {"SEQ_CLS": "classify", "TOKEN_CLS": "tokens", "FEATURE_EXTRACTION": "embed"}


def read(folder: Path, config: dict[str, Any], backbone: Backbone) -> Adapter:
    """Reads a PEFT adapter. Raises InvalidRequest, AdapterMismatch or UnsupportedFormat with the reason."""
    kind_of_file = str(config.get("peft_type"))
    if kind_of_file not in _UNDERSTOOD:
        raise AdapterMismatch(
            f"PEFT's {shown(kind_of_file)} is not served; these are: {', '.join(sorted(_UNDERSTOOD))}",
            param="peft_type",
        )
    _check_fields(config, kind_of_file)
    tensors = read_tensors(folder / WEIGHTS)
    remaining = Remaining(tensors, WEIGHTS)
    warnings: list[str] = []
    if kind_of_file == "LORA":
        part = _lora(remaining, config, backbone)
        head_prefix = _WRAPPER
    else:
        part = _prefix(remaining, config, backbone)
        head_prefix = "base_model."
    kind, head = _head(remaining, config, head_prefix, backbone, warnings)
    remaining.done()
    return Adapter(
        parts=(part,),
        head=head,
        kind=kind,
        matched_tensors=remaining.taken,
        base=text_or_none(config.get("base_model_name_or_path")),
        warnings=tuple(warnings),
    )


def _check_fields(config: dict[str, Any], kind_of_file: str) -> None:
    for name, value in config.items():
        if name in _BOOKKEEPING or name in _UNDERSTOOD[kind_of_file]:
            continue
        if value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(
                f"the field '{name}' of adapter_config.json is set to {shown(value)}, which is not served",
                param=name,
            )
    if kind_of_file == "LORA":
        bias = config.get("bias", "none")
        if bias != "none":
            raise AdapterMismatch(f"LoRA with bias {shown(bias)} is not served; only 'none' is", param="bias")
        start = str(config.get("init_lora_weights", True)).lower()
        if start.startswith(_CHANGED_BASE):
            raise AdapterMismatch(
                f"init_lora_weights {shown(start)} is relative to a changed backbone; save the adapter with PEFT's "
                "`path_initial_model_for_weight_conversion`, which makes a plain LoRA of it",
                param="init_lora_weights",
            )


# ---- LoRA


def _lora(remaining: Remaining, config: dict[str, Any], backbone: Backbone) -> Part:
    sites: dict[str, dict[str, Tensor]] = {}
    modules: dict[str, str] = {}
    for name in remaining.names():
        match = re.fullmatch(r"(.+)\.lora_(A|B)\.weight", name)
        if match is None:
            continue
        module = match[1].removeprefix(_WRAPPER)
        site = backbone.site_of(module).name
        tensor = remaining.take(name)
        assert tensor is not None
        leaves = sites.setdefault(site, {})
        if match[2] in leaves:
            raise InvalidRequest(f"two tensors are called lora_{match[2]} of '{site}'", param=name)
        leaves[match[2]] = tensor
        modules[site] = module
    if not sites:
        raise AdapterMismatch("the file has no lora_A or lora_B weights")
    scales = {site: _lora_scale(module, sites[site], config) for site, module in modules.items()}
    return Part("lora", LoraConfig(scales=scales), sites)


def _lora_scale(module: str, leaves: dict[str, Tensor], config: dict[str, Any]) -> float:
    rank = _by_pattern(module, config, "rank_pattern", config.get("r", 8))
    alpha = _by_pattern(module, config, "alpha_pattern", config.get("lora_alpha", 8))
    if type(rank) is not int or rank < 1:
        raise InvalidRequest(f"the rank of '{module}' must be a positive whole number, not {shown(rank)}", param="r")
    if type(alpha) not in (int, float) or not abs(alpha) <= _MOST_ALPHA:
        raise InvalidRequest(
            f"lora_alpha of '{module}' must be a number of at most {_MOST_ALPHA}, not {shown(alpha)}",
            param="lora_alpha",
        )
    stored = leaves["A"].shape[0] if "A" in leaves and leaves["A"].dim() else rank
    if stored != rank:
        raise AdapterMismatch(
            f"lora_A of '{module}' has shape {list(leaves['A'].shape)}, but by adapter_config.json its rank is {rank}",
            param="r",
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _by_pattern(module: str, config: dict[str, Any], field: str, default: Any) -> Any:
    """PEFT's rule: the first pattern in the file's (alphabetical) order that ends the module's name."""
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        raise InvalidRequest(f"{field} must be an object, not {shown(patterns)}", param=field)
    for key, value in patterns.items():
        # Python's regular expressions can take years: no repeated group, and few repetitions.
        if len(key) > _PATTERN_LENGTH or re.search(r"\)[*+{]", key) or len(re.findall(r"[*+{]", key)) > _REPETITIONS:
            raise InvalidRequest(f"the pattern {shown(key)} of {field} is too complex", param=field)
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"the pattern {shown(key)} is no regular expression: {error}", param=field) from None
    return default


# ---- prefix


def _prefix(remaining: Remaining, config: dict[str, Any], backbone: Backbone) -> Part:
    table = remaining.take("prompt_embeddings")
    if table is None:
        raise AdapterMismatch("the file has no 'prompt_embeddings'", param="prompt_embeddings")
    heads, dim = backbone.kv_shape
    wanted = 2 * backbone.layers * heads * dim
    if table.dim() != 2 or table.shape[1] != wanted:
        raise AdapterMismatch(
            f"'prompt_embeddings' has shape {list(table.shape)}, but the backbone {backbone.name} needs "
            f"[rows, {wanted}] (2 x {backbone.layers} layers x {heads} heads x {dim})",
            param="prompt_embeddings",
        )
    length = table.shape[0]
    for field, right in (
        ("num_virtual_tokens", length),
        ("num_layers", backbone.layers),
        ("token_dim", heads * dim),
    ):
        told = config.get(field)
        if told is not None and told != right:
            raise AdapterMismatch(
                f"{field} is {shown(told)}, but 'prompt_embeddings' {list(table.shape)} and the backbone "
                f"{backbone.name} make it {right}",
                param=field,
            )
    rows = table.view(length, 2 * backbone.layers, heads, dim)
    return Part(
        "prefix",
        PrefixConfig(length=length, shift_positions=True),
        {layer_site(i): {"keys": rows[:, 2 * i], "values": rows[:, 2 * i + 1]} for i in range(backbone.layers)},
    )


# ---- head


def _head(
    remaining: Remaining, config: dict[str, Any], prefix: str, backbone: Backbone, warnings: list[str]
) -> tuple[Kind, Head | None]:
    task_type = config.get("task_type")
    kind: Kind
    if task_type is not None:
        if not isinstance(task_type, str) or task_type not in _TASK_KINDS:
            raise AdapterMismatch(
                f"task_type {shown(task_type)} is not served here; these are: {', '.join(_TASK_KINDS)}",
                param="task_type",
            )
        kind = _TASK_KINDS[task_type]
    else:
        mapping = config.get("auto_mapping")
        model_class = str(mapping.get("base_model_class", "")) if isinstance(mapping, dict) else ""
        has_head = any("classifier" in name for name in remaining.names())
        kind = "tokens" if "TokenClassification" in model_class else "classify" if has_head else "embed"
        if has_head and not model_class:
            warnings.append("the file names no task_type; its head is taken for sequence classification")
    if kind == "embed":
        return kind, None
    head = family_head(remaining, prefix, kind, backbone)
    if head is None:
        raise AdapterMismatch(
            f"task_type is {task_type}, but the file has no classifier (train with modules_to_save)",
            param="task_type",
        )
    head.check(backbone)
    if kind == "classify" and sequence_kind(head.num_labels) == "regress":
        kind = "regress"
        head = Head(kind, head.reads, head.layers)
    return kind, head


# ---- writing


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes a LoRA or prefix adapter as PEFT does, so that PEFT and the servers that read its files load it."""
    (part,) = adapter.parts
    prefix = backbone.prefix + "."
    task_type = {
        "classify": "SEQ_CLS",
        "regress": "SEQ_CLS",
        "tokens": "TOKEN_CLS",
        "embed": "FEATURE_EXTRACTION",
    }
    config: dict[str, Any] = {
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
        "task_type": task_type[adapter.kind],
    }
    tensors: dict[str, Tensor] = {}
    if adapter.head is not None:
        config["modules_to_save"] = ["classifier", "score"]
        names = ("classifier",) if adapter.kind == "tokens" else backbone.family.classification_head.linears
        if len(names) != len(adapter.head.layers):
            raise InvalidRequest(
                f"PEFT's files hold the family's own head, which has {len(names)} layers and not "
                f"{len(adapter.head.layers)}"
            )
        wrapper = _WRAPPER if part.method == "lora" else "base_model."
        for name, layer in zip(names, adapter.head.layers, strict=True):
            tensors[f"{wrapper}{name}.weight"] = layer.weight
            if layer.bias is not None:
                tensors[f"{wrapper}{name}.bias"] = layer.bias
    if adapter.head is None:
        prefix = ""  # trained on the bare model
    if isinstance(part.config, LoraConfig):
        ranks = {site: leaves["A"].shape[0] for site, leaves in part.tensors.items()}
        rank = next(iter(ranks.values()))
        alphas = {prefix + site: part.config.scales[site] * r for site, r in ranks.items()}
        config |= {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alphas[prefix + next(iter(ranks))],
            "rank_pattern": {prefix + site: r for site, r in ranks.items() if r != rank},
            "alpha_pattern": alphas if len(set(alphas.values())) > 1 else {},
            "target_modules": sorted(prefix + site for site in ranks),
            "bias": "none",
            "use_rslora": False,
        }
        for site, leaves in part.tensors.items():
            for leaf in ("A", "B"):
                tensors[f"{_WRAPPER}{prefix}{site}.lora_{leaf}.weight"] = leaves[leaf]
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

"""The fields of PEFT's configs: which are understood, and which make a file that cannot be served right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch
from manyhats.formats.peft.types import check_types
from manyhats.messages import short_repr
from manyhats.methods.libraries.fields import reject_fields

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Fields of every config that say nothing about the answer: bookkeeping, matching (the tensors say what is adapted)
# and training. Whatever is in neither list below must be empty, false or zero.
_BOOKKEEPING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "task_type", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "fan_in_fan_out", "init_weights", "runtime_config",
}  # fmt: skip
_LORA = {
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout", "bias", "init_lora_weights",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core",
    "ensure_weight_tying", "use_dora", "lora_bias", "trainable_token_indices",
}  # fmt: skip
# What other programs write into the file though PEFT knows it not, and what was once PEFT's own: none of it changes the
# answer.
_HARMLESS = {
    "unsloth_fixed", "unsloth", "_from_model_config", "_name_or_path", "torch_dtype", "dtype", "lora_dtype",
    "quantization_config", "merge_weights", "lorap_lr_ratio", "lorap_emb_lr", "transformers_version",
}  # fmt: skip
# The same, with the values that mean nothing; others are refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"lora_nums": (1,)}
_PROMPT = {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
UNDERSTOOD: dict[str, set[str]] = {
    "LORA": _LORA,
    "ADALORA": _LORA
    | {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"},
    "VERA": {"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "bias"},
    "IA3": {"feedforward_modules", "init_ia3_weights"},
    "LN_TUNING": set(),
    "BEFT": set(),
    "SHIRA": {"r", "mask_type", "random_seed"},
    "TRAINABLE_TOKENS": {"token_indices"},
    "PREFIX_TUNING": _PROMPT | {"encoder_hidden_size", "prefix_projection"},
    "PROMPT_TUNING": _PROMPT
    | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"},
    "P_TUNING": _PROMPT
    | {"encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"},
}

# These start LoRA from a changed backbone: the file is relative to weights that nobody has.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica", "kasa")

# Differences of a weight that have no form of their own here.
_DIFFERENCES = {
    "LOHA", "LOKR", "OFT", "BOFT", "HRA", "FOURIERFT", "C3A", "RANDLORA", "VBLORA", "XLORA", "ROAD", "WAVEFT", "DELORA",
    "GRALORA", "HIRA", "GLORA", "PSOFT", "LILY", "MISS", "BONE", "OSF", "TINYLORA", "LORAFA", "PEANUT", "UNILORA",
}  # fmt: skip


def normalised(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with `peft_type` and `task_type` as PEFT spells them: `LORA` for `lora` and for `PeftType.LORA`."""
    told = dict(config)
    for field, enum in (("peft_type", "PeftType."), ("task_type", "TaskType.")):
        value = told.get(field)
        if isinstance(value, str):
            told[field] = value.removeprefix(enum).upper()
    return told


def check_type(config: Mapping[str, Any]) -> str:
    """The file's `peft_type`. Raises AdapterMismatch for one that is not supported, saying what can be done."""
    kind = str(config.get("peft_type"))
    if kind in UNDERSTOOD:
        return kind
    known = ", ".join(sorted(UNDERSTOOD))
    if kind == "MULTITASK_PROMPT_TUNING":
        raise AdapterMismatch(
            "PEFT's MULTITASK_PROMPT_TUNING needs a task id with every input, and is not supported; multiply the "
            "prompt of one task and save it as PROMPT_TUNING",
            param="peft_type",
        )
    if kind in _DIFFERENCES:
        raise AdapterMismatch(
            f"PEFT's {kind} is not supported as it is; `manyhats convert PATH OUT --backbone BACKBONE` makes a plain "
            f"difference of its weights on your own machine. Served as they are: {known}",
            param="peft_type",
        )
    raise AdapterMismatch(f"PEFT's {short_repr(kind)} is not supported; these are: {known}", param="peft_type")


def check_fields(config: Mapping[str, Any], kind: str, backbone: Backbone) -> None:
    """Raises InvalidRequest for a field of another type, AdapterMismatch for one that changes the answer unread."""
    check_types(config)
    told = {name: value for name, value in config.items() if value not in _NEUTRAL.get(name, ())}
    reject_fields(told, _BOOKKEEPING | _HARMLESS | UNDERSTOOD[kind], " of adapter_config.json")
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

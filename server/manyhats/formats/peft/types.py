"""What the fields of PEFT's configs may be: a text that stands where a flag belongs would pass as true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.messages import short_repr


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(value: Any) -> bool:
    return type(value) is int


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _wholes(value: Any) -> bool:
    return _whole(value) or (isinstance(value, list) and all(_whole(item) for item in value))


_Kind = tuple[Callable[[Any], bool], str]
_KINDS: dict[_Kind, tuple[str, ...]] = {
    (_flag, "true or false"): (
        "inference_mode", "fan_in_fan_out", "use_rslora", "use_dora", "use_qalora", "lora_bias", "ensure_weight_tying",
        "save_projection", "init_ia3_weights", "prefix_projection",
    ),
    (_whole, "a whole number"): (
        "r", "init_r", "target_r", "tinit", "tfinal", "deltaT", "total_step", "qalora_group_size", "random_seed",
        "projection_prng_key", "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads",
        "num_layers", "encoder_hidden_size", "encoder_num_layers",
    ),
    (_number, "a number"): (
        "lora_alpha", "lora_dropout", "vera_dropout", "encoder_dropout", "beta1", "beta2", "orth_reg_weight",
        "d_initial",
    ),
    (_text, "a text"): (
        "peft_version", "base_model_name_or_path", "revision", "megatron_core", "mask_type",
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
        "encoder_reparameterization_type",
    ),
    (lambda value: _flag(value) or _text(value), "true, false or a text"): ("init_lora_weights", "init_weights"),
    (_object, "an object"): (
        "auto_mapping", "rank_pattern", "alpha_pattern", "loftq_config", "eva_config", "corda_config",
        "lora_ga_config", "runtime_config", "megatron_config", "tokenizer_kwargs",
    ),
    (_texts, "a text or a list of texts"): (
        "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "feedforward_modules",
        "target_parameters",
    ),
    (_wholes, "a whole number or a list of them"): ("layers_to_transform",),
    (lambda value: isinstance(value, (list, dict)), "a list or an object"): (
        "trainable_token_indices", "token_indices",
    ),
}  # fmt: skip
_BY_FIELD = {field: kind for kind, fields in _KINDS.items() for field in fields}


def check_types(config: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a known field of another type than PEFT gives it; null is a field that is not set."""
    for field, value in config.items():
        if value is None or field not in _BY_FIELD:
            continue
        fits, wanted = _BY_FIELD[field]
        if not fits(value):
            raise InvalidRequest(
                f"{field} of adapter_config.json must be {wanted}, not {short_repr(value)}", param=field
            )

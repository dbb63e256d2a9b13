"""`generation_config.json` of an adapter: the parameters that transformers' `generate` would use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.formats.files import read_json
from manyhats.messages import short_repr

FILE = "generation_config.json"
# Parameters of sampling, with transformers' defaults.
_SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None}
_ALWAYS = ("max_new_tokens", "repetition_penalty")
# Bookkeeping, special tokens, and how a pass is computed: none of them changes what is generated here.
_IGNORED_FIELDS = {
    "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "eos_token_id",
    "decoder_start_token_id", "do_sample", "use_cache", "cache_implementation", "cache_config",
    "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_legacy_cache", "trust_remote_code", "disable_compile", "compile_config", "early_stopping",
    "length_penalty", "remove_invalid_values", "renormalize_logits", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "is_assistant",
    "continuous_batching_config", "generation_kwargs", "prefill_chunk_size", "low_memory", "token_healing",
    "max_matching_ngram_size",
}  # fmt: skip
_NEUTRAL: dict[str, Any] = {
    "max_length": 20, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "typical_p": 1.0,
    "encoder_repetition_penalty": 1.0, "guidance_scale": 1.0,
}  # fmt: skip


def read_generation_config(folder: Path) -> tuple[list[int], dict[str, Any], list[str]]:
    """`eos_token_id`, a task's default parameters, and warnings about what is used and what is not.

    Where `do_sample` is true, the parameters of sampling become defaults; where it is false, `temperature` 0 does;
    where it is missing, neither. Raises InvalidRequest for an invalid `eos_token_id`.
    """
    if not (folder / FILE).is_file():
        return [], {}, []
    config = read_json(folder / FILE)
    sampled = config.get("do_sample")
    if sampled is not None and not isinstance(sampled, bool):
        raise InvalidRequest(f"do_sample of {FILE} must be true or false, not {short_repr(sampled)}", param="do_sample")
    defaults: dict[str, Any] = {}
    if sampled:
        for name, otherwise in _SAMPLED.items():
            value = config.get(name)
            value = otherwise if value is None else value
            if value is not None:
                defaults[name] = value
    elif sampled is False:
        defaults["temperature"] = 0.0
    for name in _ALWAYS:
        if config.get(name) is not None:
            defaults[name] = config[name]
    if config.get("stop_strings"):
        defaults["stop"] = config["stop_strings"]
    warnings = []
    if defaults:
        listed = ", ".join(f"{name} {short_repr(value)}" for name, value in defaults.items())
        warnings.append(f"defaults taken from {FILE}: {listed}")
    left = [] if sampled else [n for n, plain in _SAMPLED.items() if config.get(n) not in (None, plain)]
    if left:
        warnings.append(f"{', '.join(left)} of {FILE} not taken, as do_sample is not true there")
    known = {*_IGNORED_FIELDS, *_SAMPLED, *_ALWAYS, "stop_strings"}
    others = [n for n, value in config.items() if n not in known and not _is_neutral(n, value)]
    if others:
        names = ", ".join(name[:60] for name in others[:8])
        warnings.append(f"not supported, and not taken from {FILE}: {names}{' and more' if len(others) > 8 else ''}")
    return _eos_token_ids(config), defaults, warnings


def _is_neutral(name: str, value: Any) -> bool:
    return value in (None, False, 0, [], {}, "") or value == _NEUTRAL.get(name)


def _eos_token_ids(config: Mapping[str, Any]) -> list[int]:
    given = config.get("eos_token_id")
    numbers = given if isinstance(given, list) else [] if given is None else [given]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise InvalidRequest(
            f"eos_token_id of {FILE} must be a token's number or a list of them, not {short_repr(given)}",
            param="eos_token_id",
        )
    return numbers

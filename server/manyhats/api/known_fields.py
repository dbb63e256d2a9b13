"""Fields of requests that are known to change answers, of all the servers whose clients come here.

A route follows some of them under their own or other names. Each of the others must be null, empty, or have a value
that changes nothing; else the request is refused by name. A field that stands nowhere in this module changes nothing
that is known of, and may pass, as OpenAI's own server has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from manyhats.errors import InvalidRequest
from manyhats.serving.merged import FIELD

# What a field is called in requests, and the parameter that it is here.
FOLLOWED: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "temperature", "top_p", "top_k", "min_p", "stop", "presence_penalty", "frequency_penalty",
            "repetition_penalty", "logit_bias", "seed", "ignore_eos", "min_tokens", "stop_token_ids", "bad_words",
            "allowed_token_ids", "truncate_prompt_tokens", "truncation_side", "skip_special_tokens", "response_format",
            "regex", FIELD,
        )
    },
    "ignore_eos_token": "ignore_eos",
    "include_stop_str_in_output": "include_stop",
    "no_stop_trim": "include_stop",
    "min_new_tokens": "min_tokens",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "ebnf": "grammar",
}  # fmt: skip


class Known(NamedTuple):
    """A field that changes answers. `neutral`: values, besides null and what is empty, that change nothing."""

    neutral: tuple[Any, ...] = ()
    instead: str = ""


_OFF = Known((False,))
_ZERO = Known((0, False))
_ONE = Known((1,))
_NEVER = Known()
_TEMPLATE = Known((), "the chat template takes it from 'chat_template_kwargs'")

CHANGE_ANSWERS: Mapping[str, Known] = {
    # how tokens are chosen
    **dict.fromkeys(("use_beam_search", "early_stopping", "watermark", "watermarking"), _OFF),
    **dict.fromkeys(("best_of", "n", "num_beams", "num_beam_groups", "num_return_sequences", "beam_width"), _ONE),
    **dict.fromkeys(("length_penalty", "typical_p", "typical", "typ_p", "tfs", "tfs_z"), _ONE),
    **dict.fromkeys(("repeat_penalty", "rep_pen", "encoder_repetition_penalty", "guidance_scale", "cfg_scale"), _ONE),
    **dict.fromkeys(
        (
            "mirostat", "mirostat_mode", "dry_multiplier", "xtc_probability", "top_a", "epsilon_cutoff", "eta_cutoff",
            "dynatemp_range", "smoothing_factor", "penalty_alpha", "diversity_penalty", "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size", "nsigma", "min_keep", "min_length", "dynamic_temperature",
        ),
        _ZERO,
    ),
    "top_n_sigma": Known((0, -1)),
    "do_sample": Known((), "'temperature' says whether tokens are drawn"),
    "exponential_decay_length_penalty": _NEVER,
    "logits_processors": _NEVER,
    "logits_processor": _NEVER,
    "custom_logit_processor": _NEVER,
    "custom_params": _NEVER,
    "vllm_xargs": _NEVER,
    "xargs": _NEVER,
    "extra_args": _NEVER,
    "samplers": _NEVER,
    "sampler_order": _NEVER,
    "sampler_priority": _NEVER,
    "temperature_last": _OFF,
    "negative_prompt": _NEVER,
    "repetition_detection": _NEVER,
    "trace_decode_token_ids": _NEVER,
    # where a text ends
    "stop_sequences": Known((), "use 'stop'"),
    "stopping_strings": Known((), "use 'stop'"),
    "stop_sequence": Known((), "use 'stop'"),
    "stop_regex": _NEVER,
    "stop_strings": Known((), "use 'stop'"),
    "eos_token_id": Known((), "use 'stop_token_ids'"),
    "forced_eos_token_id": _NEVER,
    "forced_bos_token_id": _NEVER,
    "max_time": _NEVER,
    "ban_eos_token": Known((False,), "use 'ignore_eos' or 'min_tokens'"),
    "max_length": Known((), "use the route's own field for the most new tokens"),
    "max_tokens": Known((), "use 'max_new_tokens'"),
    "max_completion_tokens": Known((), "use 'max_tokens' or 'max_new_tokens'"),
    "max_output_tokens": Known((), "use 'max_tokens' or 'max_new_tokens'"),
    "max_new_tokens": Known((), "use 'max_tokens'"),
    "n_predict": Known((), "use 'max_tokens' or 'max_new_tokens'"),
    "num_predict": Known((), "use 'max_tokens' or 'max_new_tokens'"),
    # which tokens there may be
    "bad_words_ids": Known((), "use 'bad_words'"),
    "force_words_ids": _NEVER,
    "custom_token_bans": Known((), "use 'logit_bias' or 'bad_words'"),
    "banned_tokens": Known((), "use 'logit_bias' or 'bad_words'"),
    "banned_strings": Known((), "use 'bad_words'"),
    "suppress_tokens": Known((), "use 'logit_bias'"),
    "begin_suppress_tokens": _NEVER,
    "sequence_bias": Known((), "use 'logit_bias' or 'bad_words'"),
    # what form it has
    "structural_tag": _NEVER,
    "guided_json_object": Known((False,), "use 'response_format'"),
    "guided_structural_tag": _NEVER,
    "guided_whitespace_pattern": _NEVER,
    "whitespace_pattern": _NEVER,
    "disable_additional_properties": _OFF,
    "grammar_string": Known((), "use 'guided_grammar'"),
    "grammar": Known((), "use 'guided_grammar'"),
    "guided_json": _NEVER,
    "json_schema": Known((), "use 'response_format'"),
    "json_object": _OFF,
    "schema": Known((), "use 'response_format'"),
    "choice": Known((), "use 'guided_choice'"),
    "structured_outputs": _NEVER,
    "tools": _NEVER,
    "tool_choice": Known(("none", "auto")),
    "tool_prompt": _NEVER,
    "functions": _NEVER,
    "function_call": Known(("none", "auto")),
    "verbosity": Known(("medium",)),
    "modalities": Known((["text"],)),
    "audio": _NEVER,
    "prediction": _NEVER,
    "web_search_options": _NEVER,
    "moderation": _NEVER,
    # what it is made of
    "suffix": _NEVER,
    "echo": _OFF,
    "return_full_text": _OFF,
    "prompt_embeds": _NEVER,
    "input_embeds": _NEVER,
    "input_ids": Known((), "give token numbers as 'prompt' to /v1/completions"),
    "images": _NEVER,
    "image_data": _NEVER,
    "images_config": _NEVER,
    "multi_modal_data": _NEVER,
    "mm_processor_kwargs": _NEVER,
    "media_io_kwargs": _NEVER,
    "max_dynamic_patch": _NEVER,
    "min_dynamic_patch": _NEVER,
    "use_audio_in_video": _OFF,
    "documents": _TEMPLATE,
    "reasoning_effort": _TEMPLATE,
    "reasoning": _TEMPLATE,
    "thinking": _TEMPLATE,
    "enable_thinking": _TEMPLATE,
    "thinking_budget": _NEVER,
    "thinking_token_budget": Known((-1,)),
    "chat_template": Known((), "set it for the task"),
    "chat_template_kwargs": _NEVER,
    "add_generation_prompt": Known((True,)),
    "continue_final_message": _OFF,
    "apply_chat_template": Known((False,), "use /v1/chat/completions"),
    "add_special_tokens": Known((True,), "give token numbers as 'prompt' to /v1/completions"),
    "truncate": Known((False,), "use 'truncate_prompt_tokens'"),
    "task": _NEVER,
    "lora_path": Known((), "'model' names the task"),
    "lora": Known((), "'model' names the task"),
    "adapter_id": Known((), "'model' names the task"),
    "adapter_source": Known(("local",)),
    "adapters": Known((), "'model' names the task"),
    "session_params": _NEVER,
    "previous_response_id": _NEVER,
    # what the answer says beside the text
    "logprobs": _OFF,
    "top_logprobs": _ZERO,
    "prompt_logprobs": Known((), "use 'decoder_input_details'"),
    "logprob_token_ids": _NEVER,
    "n_probs": Known((0,), "use 'logprobs'"),
    "top_n_tokens": Known((0,), "use 'logprobs'"),
    "return_k_alternatives": Known((0,), "use 'logprobs'"),
    "decoder_input_details": _OFF,
    "details": _OFF,
    "detokenize": Known((True,)),
    "spaces_between_special_tokens": Known((True,)),
    "return_tokens_as_token_ids": _OFF,
    "return_token_ids": _OFF,
    "return_prompt_token_ids": _OFF,
    "return_prompt_text": _OFF,
    "return_token_offsets": _OFF,
    "return_hidden_states": _OFF,
    "return_routed_experts": _OFF,
    "return_meta_info": _OFF,
    "return_cached_tokens_details": _OFF,
    "continuous_usage_stats": _OFF,
    # who computes it, and what else sees it
    "priority": Known((0,), "a task has its own"),
    "cache_salt": _NEVER,
    "kv_transfer_params": _NEVER,
    "ec_transfer_params": _NEVER,
    "background": _OFF,
}  # fmt: skip

# The same of what one pass answers: vectors, labels and scores.
CHANGE_POOLED: Mapping[str, Known] = {
    # what is read
    "messages": Known((), "give texts"),
    "add_special_tokens": Known((True,), "give token numbers"),
    "truncation_side": Known(("right",)),
    "truncation_direction": Known(("right", "Right")),
    "padding": Known(("do_not_pad", False)),
    "late_chunking": _OFF,
    "instruction": Known((), "use 'prompt'"),
    "instruct": Known((), "use 'prompt'"),
    "input_type": Known((), "use 'prompt_name'"),
    "task_type": Known((), "use 'prompt_name'"),
    "task": Known((), "use 'prompt_name'"),
    "mm_processor_kwargs": _NEVER,
    "chat_template": _NEVER,
    "chat_template_kwargs": _NEVER,
    "images": _NEVER,
    "lora_path": Known((), "'model' names the task"),
    "merged_adapters": _NEVER,
    # parameters of ours, where a route does not declare them
    **dict.fromkeys(("normalize", "logits", "multi_label", "raw_scores"), _OFF),
    **dict.fromkeys(("pooling", "prompt", "prompt_name", "top_k", "aggregation", "max_answer_tokens"), _NEVER),
    # what becomes of it
    "use_activation": Known((True,)),
    "activation": Known((True,)),
    "softmax": Known((True,)),
    "embedding_type": Known(("float",), "use 'encoding_format'"),
    "embedding_types": Known((["float"],), "use 'encoding_format'"),
    "embed_dtype": Known(("float32",)),
    "output_dtype": Known(("float",)),
    "output_dimension": Known((), "use 'dimensions'"),
    "truncate_dim": Known((), "use 'dimensions'"),
    "endianness": Known(("native", "little")),
    "return_hidden_states": _OFF,
    # who computes it, and what else sees it
    "priority": Known((0,), "a task has its own"),
    "cache_salt": _NEVER,
}

# Understood, and without a meaning here: they name, count or route a request, or act only with another field.
HARMLESS = frozenset({
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "request_id", "rid", "session_id", "extra_key", "custom_labels",
    "include_obfuscation", "stream_interval", "include_reasoning", "separate_reasoning", "stream_reasoning",
    "guided_decoding_backend", "disable_any_whitespace", "api_token", "options", "return_mm_kwargs",
    "routed_experts_prompt_start", "routed_experts_start_len", "routed_dp_rank", "data_parallel_rank",
    "disagg_prefill_dp_rank", "bootstrap_host", "bootstrap_port", "bootstrap_room", "ngram_corpus_id",
    "mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
    "xtc_threshold", "dynatemp_exponent", "smoothing_curve", "repeat_last_n", "rep_pen_range", "cache_prompt",
    "id_slot", "slot_id", "use_cache",
})  # fmt: skip


def user_of(fields: Mapping[str, Any] | None) -> str | None:
    """The end user that a body names: of a split, the same one gets the same version."""
    user = (fields or {}).get("user")
    return user if isinstance(user, str) and user else None


def reject_unsupported(
    fields: Mapping[str, Any] | None,
    followed: Collection[str] = (),
    change_answers: Mapping[str, Known] = CHANGE_ANSWERS,
) -> None:
    """Raises InvalidRequest for a field that changes answers, is not `followed`, and asks for something."""
    for name, value in (fields or {}).items():
        known = change_answers.get(name)
        if known is None or name in followed or _is_neutral(value, known.neutral):
            continue
        instead = f"; {known.instead}, and" if known.instead else ";"
        or_give = f" or give {_json(known.neutral[0])}" if known.neutral else ""
        raise InvalidRequest(f"'{name}' is not supported{instead} leave it out{or_give}", param=name)


def translate(fields: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The parameters that some fields are, each with the name that the caller gave it.

    Raises InvalidRequest where two fields say the same parameter in two ways.
    """
    found: dict[str, tuple[str, Any]] = {}
    for name, value in fields.items():
        if value is None or name not in FOLLOWED:
            continue
        add_parameter(found, FOLLOWED[name], name, value)
    return found


def add_parameter(found: dict[str, tuple[str, Any]], parameter: str, name: str, value: Any) -> None:
    """Puts a field among the parameters. Raises InvalidRequest where another one says something else."""
    other = found.setdefault(parameter, (name, value))
    if other[1] != value:
        raise InvalidRequest(f"'{other[0]}' and '{name}' say two things; give one of them", param=name)


def _is_neutral(value: Any, neutral: Iterable[Any]) -> bool:
    if value is None or (isinstance(value, (str, list, dict)) and not value):
        return True
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)

"""Every field of the servers whose clients come here is followed, refused by name, or known to mean nothing."""

from __future__ import annotations

from typing import Any

import lorax.types
import pytest
from manyhats.api.known_fields import CHANGE_ANSWERS, FOLLOWED, HARMLESS, add_parameter, reject_unsupported, translate
from manyhats.api.lorax import GenerateBody, Parameters
from manyhats.api.openai.bodies import ChatBody, CompletionBody
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.errors import InvalidRequest
from manyhats.serving.merged import FIELD
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params

DECLARED = {name for model in (CompletionBody, ChatBody, GenerateBody, Parameters) for name in model.model_fields}
KNOWN = DECLARED | FOLLOWED.keys() | CHANGE_ANSWERS.keys() | HARMLESS

# Of requests to generate, by server, as their newest protocols have them.
VLLM = """
messages model frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n presence_penalty
response_format seed stop stream stream_options temperature top_p tools tool_choice reasoning_effort
thinking_token_budget include_reasoning parallel_tool_calls user use_beam_search top_k min_p repetition_penalty
watermarking length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids
allowed_token_ids bad_words echo add_generation_prompt continue_final_message add_special_tokens documents
chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id
session_id return_tokens_as_token_ids return_token_ids routed_experts_prompt_start return_token_offsets
return_prompt_text return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params vllm_xargs repetition_detection
stream_interval prompt suffix prompt_embeds best_of early_stopping guided_json guided_regex guided_choice
guided_grammar guided_decoding_backend guided_whitespace_pattern structural_tag logits_processors detokenize
"""
SGLANG = """
best_of echo json_schema regex ebnf stop_regex no_stop_trim lora_path session_params custom_params
custom_logit_processor images_config bootstrap_host bootstrap_port bootstrap_room routed_dp_rank
disagg_prefill_dp_rank data_parallel_rank rid extra_key cache_salt ngram_corpus_id priority custom_labels
return_hidden_states return_routed_experts routed_experts_start_len return_cached_tokens_details return_token_ids
return_prompt_token_ids return_meta_info task separate_reasoning stream_reasoning max_dynamic_patch
min_dynamic_patch use_audio_in_video input_ids min_new_tokens reasoning
"""
TGI = """
best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample max_new_tokens
return_full_text stop truncate watermark details decoder_input_details seed top_n_tokens grammar adapter_id tool_prompt
"""
LORAX = """
adapter_id adapter_source merged_adapters api_token best_of temperature repetition_penalty top_k top_p typical_p
do_sample max_new_tokens ignore_eos_token return_full_text stop truncate watermark details decoder_input_details
return_k_alternatives apply_chat_template seed response_format
"""
OTHERS = """
mirostat mirostat_tau mirostat_eta dry_multiplier dry_base dry_allowed_length dry_sequence_breakers xtc_probability
xtc_threshold top_a tfs tfs_z top_n_sigma dynatemp_range smoothing_factor repeat_penalty repeat_last_n n_predict
cache_prompt num_beams no_repeat_ngram_size penalty_alpha guidance_scale max_length min_length
"""


@pytest.mark.parametrize("names", [VLLM, SGLANG, TGI, LORAX, OTHERS], ids=["vllm", "sglang", "tgi", "lorax", "others"])
def test_every_field_of_other_servers_is_known(names: str) -> None:
    assert set(names.split()) - KNOWN == set()


def test_every_field_that_clients_can_send_is_known() -> None:
    for params in (completion_create_params.CompletionCreateParamsBase, chat_params.CompletionCreateParamsBase):
        assert set(params.__annotations__) - KNOWN == set()
    fields: Any = lorax.types.Parameters.model_fields
    assert set(fields) - KNOWN == set()


def test_a_field_is_in_one_list() -> None:
    assert not FOLLOWED.keys() & CHANGE_ANSWERS.keys()
    assert not HARMLESS & (FOLLOWED.keys() | CHANGE_ANSWERS.keys() | DECLARED)
    assert {name for name in FOLLOWED.values() if name != FIELD} <= GenerateParameters.model_fields.keys()


@pytest.mark.parametrize("name", sorted(CHANGE_ANSWERS))
def test_what_is_not_followed_is_refused_by_name(name: str) -> None:
    for value in ("x", [1], {"a": 1}, 17, 0.5, [[True]]):
        with pytest.raises(InvalidRequest, match=f"^'{name}' is not supported") as caught:
            reject_unsupported({name: value})
        assert caught.value.param == name
    reject_unsupported({name: 17}, followed={name})
    for value in (None, "", [], {}, *CHANGE_ANSWERS[name].neutral):
        reject_unsupported({name: value})


def test_neutral_is_what_it_says_and_nothing_like_it() -> None:
    for name, value in {"length_penalty": 1.0, "best_of": 1, "use_beam_search": False, "xtc_probability": 0.0}.items():
        reject_unsupported({name: value})
    for name, value in {"length_penalty": True, "best_of": True, "use_beam_search": 0, "detokenize": 1}.items():
        with pytest.raises(InvalidRequest, match=name):
            reject_unsupported({name: value})


def test_names_that_mean_the_same_must_say_the_same() -> None:
    found = translate({"guided_regex": "a", "regex": "a", "made_up": 1, "top_k": None})
    assert found == {"regex": ("guided_regex", "a")}
    with pytest.raises(InvalidRequest, match="'guided_regex' and 'regex' say two things"):
        translate({"guided_regex": "a", "regex": "b"})
    found["n"] = ("n", 1)
    with pytest.raises(InvalidRequest, match="'n' and 'choices'"):
        add_parameter(found, "n", "choices", 2)

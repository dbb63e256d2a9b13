"""Every method of PEFT on every family: how such an adapter is made.

PEFT's classes stand here by their names: the suite compares with stored references, and imports no PEFT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests import tiny_models


@dataclass(frozen=True)
class Names:
    """What a family calls its layers. `key_value`: what IA3 rescales; `feed`: its feed-forward's last layer."""

    query_value: list[str]
    key_value: list[str]
    feed: str
    norms: list[str]
    words: str


_BERT = Names(["query", "value"], ["key", "value"], "output.dense", ["LayerNorm"], "word_embeddings")
_LLAMA = Names(
    ["q_proj", "v_proj"],
    ["k_proj", "v_proj"],
    "down_proj",
    ["input_layernorm", "post_attention_layernorm", "norm"],
    "embed_tokens",
)
_OPT = Names(["q_proj", "v_proj"], ["k_proj", "v_proj"], "fc2", ["self_attn_layer_norm"], "embed_tokens")
_NEOX = Names(
    ["query_key_value"],
    ["query_key_value"],
    "dense_4h_to_h",
    ["input_layernorm", "post_attention_layernorm", "final_layer_norm"],
    "embed_in",
)
NAMES: dict[str, Names] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": Names(
        ["q_lin", "v_lin"], ["k_lin", "v_lin"], "lin2", ["sa_layer_norm", "output_layer_norm"], "word_embeddings"
    ),
    "albert": Names(
        ["query", "value"], ["key", "value"], "ffn_output", ["full_layer_layer_norm", "LayerNorm"], "word_embeddings"
    ),
    "modernbert": Names(["Wqkv"], ["Wqkv"], "mlp.Wo", ["mlp_norm", "final_norm"], "tok_embeddings"),
    "gpt2": Names(["c_attn"], ["c_attn"], "mlp.c_proj", ["ln_1", "ln_2", "ln_f"], "wte"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": _OPT,
    "opt-after": _OPT,
    "gpt_neox": _NEOX,
    "gpt_neox-sequential": _NEOX,
    "mpnet": Names(["attn.q", "attn.v"], ["attn.k", "attn.v"], "output.dense", ["LayerNorm"], "word_embeddings"),
    "reformer": Names(["query_key", "value"], ["value"], "output.dense", ["layer_norm"], "word_embeddings"),
}

Options = Callable[[Names], dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One way of using PEFT. `numbers`: the tricky cases (methods' quirks) that it holds."""

    config: str  # PEFT's class
    options: Options
    task: str = "SEQ_CLS"
    labels: int = 3
    numbers: tuple[int, ...] = ()
    only: tuple[str, ...] = ()  # families; all where empty

    def of(self, family: str) -> Method:
        """The method as it is tried on a family: PEFT's files do not hold ModernBERT's whole head."""
        headless = family == "modernbert" and self.task == "SEQ_CLS" and self is not METHODS["lora"]
        return replace(self, task="FEATURE_EXTRACTION") if headless else self


def _lora(**options: Any) -> Options:
    def make(names: Names) -> dict[str, Any]:
        return {"r": 4, "lora_alpha": 8, "target_modules": names.query_value} | options

    return make


_LSTM = {"num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16}
_MLP = {"num_virtual_tokens": 4, "encoder_reparameterization_type": "MLP", "encoder_hidden_size": 16}
_EVERY = ("input_layernorm", "post_attention_layernorm")
_RANKS = {
    "use_rslora": True,
    "rank_pattern": {"layer.1.*value": 8, r"layer\.0\..*": 6, "query": 2},
    "alpha_pattern": {"layer.0.*": 24, "layer.0.attention.self.query": 5, "value": 3},
}

METHODS: dict[str, Method] = {
    "lora": Method("LoraConfig", _lora(lora_alpha=16), numbers=(1, 7, 8, 9)),
    "lora-tokens": Method("LoraConfig", _lora(), "TOKEN_CLS", 5),
    "lora-span": Method("LoraConfig", _lora(), "QUESTION_ANS", 2),
    "lora-bare": Method("LoraConfig", _lora(), "FEATURE_EXTRACTION", numbers=(24,)),
    "lora-all-linear": Method("LoraConfig", _lora(target_modules="all-linear"), labels=5, numbers=(4, 9)),
    "lora-patterns": Method("LoraConfig", _lora(**_RANKS), numbers=(2,), only=("bert", "roberta", "electra")),
    "lora-regex": Method(
        "LoraConfig", _lora(target_modules=r".*layers\.1\..*(q|v)_proj"), numbers=(3,), only=("llama", "qwen2")
    ),
    "lora-layer": Method(
        "LoraConfig",
        _lora(target_modules=["query", "dense"], layers_to_transform=[1], exclude_modules=["query"]),
        numbers=(5,),
        only=("bert", "roberta"),
    ),
    "lora-conv1d": Method(
        "LoraConfig",
        _lora(target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True),
        numbers=(6,),
        only=("gpt2",),
    ),
    "lora-bias-all": Method("LoraConfig", _lora(bias="all"), numbers=(10,)),
    "lora-bias-own": Method("LoraConfig", _lora(bias="lora_only"), numbers=(11,)),
    "lora-bias-b": Method("LoraConfig", _lora(lora_bias=True), numbers=(12,)),
    "lora-embedding": Method(
        "LoraConfig", lambda n: {"r": 4, "target_modules": [n.words, *n.query_value]}, numbers=(13,)
    ),
    "dora": Method("LoraConfig", _lora(use_dora=True, target_modules="all-linear"), numbers=(14,)),
    "dora-rslora": Method("LoraConfig", _lora(use_dora=True, use_rslora=True), numbers=(14,)),
    "dora-embedding": Method(
        "LoraConfig", lambda n: {"r": 4, "use_dora": True, "target_modules": [n.words]}, numbers=(14,)
    ),
    "dora-bias": Method("LoraConfig", _lora(use_dora=True, bias="lora_only"), numbers=(11, 14)),
    "lora-tokens-trained": Method(
        "LoraConfig",
        lambda n: {"r": 4, "target_modules": n.query_value, "trainable_token_indices": {n.words: [7, 40, 12]}},
        numbers=(15,),
    ),
    "trained-tokens": Method(
        "TrainableTokensConfig",
        lambda n: {"target_modules": [n.words], "token_indices": [7, 40, 12]},
        "FEATURE_EXTRACTION",
        numbers=(15,),
    ),
    "saved-embedding": Method(
        "LoraConfig",
        lambda n: {"r": 4, "target_modules": n.query_value, "modules_to_save": [n.words, n.norms[-1]]},
        "FEATURE_EXTRACTION",
        numbers=(16,),
    ),
    "ia3": Method(
        "IA3Config",
        lambda n: {"target_modules": [*n.key_value, n.feed], "feedforward_modules": [n.feed]},
        numbers=(18,),
    ),
    "ln": Method("LNTuningConfig", lambda n: {"target_modules": n.norms}, numbers=(19,)),
    "prompt": Method("PromptTuningConfig", lambda n: {"num_virtual_tokens": 5}, numbers=(20,)),
    "prompt-tokens": Method("PromptTuningConfig", lambda n: {"num_virtual_tokens": 3}, "TOKEN_CLS", 4, (20,)),
    "p-tuning-mlp": Method("PromptEncoderConfig", lambda n: _MLP, numbers=(21,)),
    "p-tuning-lstm": Method("PromptEncoderConfig", lambda n: _LSTM, numbers=(21,)),
    "prefix": Method("PrefixTuningConfig", lambda n: {"num_virtual_tokens": 5}, numbers=(22,)),
    "prefix-projection": Method(
        "PrefixTuningConfig",
        lambda n: {"num_virtual_tokens": 9, "prefix_projection": True, "encoder_hidden_size": 24},
        "TOKEN_CLS",
        4,
        (22,),
    ),
    "adalora": Method(
        "AdaLoraConfig",
        lambda n: {"target_modules": n.query_value, "init_r": 6, "target_r": 4, "total_step": 10, "lora_alpha": 16},
        numbers=(25,),
    ),
    "vera": Method(
        "VeraConfig", lambda n: {"r": 8, "target_modules": n.query_value, "save_projection": True}, numbers=(25,)
    ),
    "vera-key": Method(
        "VeraConfig",
        lambda n: {"r": 8, "target_modules": n.query_value, "save_projection": False, "projection_prng_key": 5},
        numbers=(25,),
    ),
    "shira": Method("ShiraConfig", lambda n: {"r": 2, "target_modules": n.query_value}, numbers=(25,)),
    "beft": Method("BeftConfig", lambda n: {"target_modules": n.query_value}, numbers=(25,)),
    "lora-generate": Method("LoraConfig", _lora(), "CAUSAL_LM", only=tiny_models.DECODERS),
    "lora-output-layer": Method(
        "LoraConfig",
        lambda n: {"r": 4, "target_modules": ["lm_head", *n.query_value]},
        "CAUSAL_LM",
        only=("llama", "mistral", "qwen3"),
    ),
    "lora-generate-head": Method(
        "LoraConfig",
        lambda n: {"r": 4, "target_modules": n.query_value, "modules_to_save": ["lm_head", n.words]},
        "CAUSAL_LM",
        numbers=(16,),
        only=("llama",),
    ),
    "trained-tokens-generate": Method(
        "TrainableTokensConfig",
        lambda n: {"target_modules": [n.words], "token_indices": [7, 40, 12]},
        "CAUSAL_LM",
        numbers=(15,),
        only=("gpt2", "llama", "qwen2"),
    ),
    "prefix-generate": Method(
        "PrefixTuningConfig", lambda n: {"num_virtual_tokens": 5}, "CAUSAL_LM", only=("gpt2", "llama", "qwen2")
    ),
    "prompt-generate": Method(
        "PromptTuningConfig", lambda n: {"num_virtual_tokens": 5}, "CAUSAL_LM", only=("gpt2", "llama", "qwen2")
    ),
}

"""Where PEFT itself has no such adapter: how the error begins that it raises, and on which cells.

A fact for each cell, and no more than these: making the references fails on any other error, and on a cell of these
that works.
"""

from __future__ import annotations

_OPT = ("opt", "opt-after")
_UNCLASSED = ("lora-tokens", "prompt-tokens", "prefix-projection")
_PROMPTS = ("prompt", "prompt-tokens", "p-tuning-mlp", "p-tuning-lstm")
_PREFIXES = ("prefix", "prefix-projection")

_NO_WIDTH = "ValueError: Please specify `token_dim` in `peft_config`"
_NO_CACHE = "ValueError: Model does not support past key values which are required for prefix tuning."
# Prompts as wide as the blocks, before embeddings that are narrower.
_NARROW = "RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 32 but got size 16"
_CONV1D = "TypeError: Target module Conv1D(nf=96, nx=32) is not supported."
# All linear layers take the inner layer of the classifier too, which is saved whole.
_SAVED = "TypeError: modules_to_save cannot be applied to modules of type <class 'peft.tuners.lora.layer.Linear'>"
# ModernBERT has no place for cached keys, and its own attention finds a mask that is longer than the text.
_MASK = "RuntimeError: The size of tensor a (3) must match the size of tensor b (8) at non-singleton dimension 3"


def _unclassed(config: str) -> str:
    """transformers has no such task class for the family."""
    return f"ValueError: Unrecognized configuration class <class 'transformers.models.{config}'>"


# By group, case and family.
ABSENT: dict[tuple[str, str, str], str] = {
    **{("matrix", name, "distilbert"): _SAVED for name in ("lora-all-linear", "dora")},
    **{("matrix", name, "distilbert"): _NO_WIDTH for name in (*_PROMPTS, *_PREFIXES)},
    **{("matrix", name, family): _NARROW for name in _PROMPTS for family in ("albert", "opt-after")},
    **{("generation", name, "opt-after"): _NARROW for name in ("prompt", "p-tuning")},
    **{("matrix", name, family): _NO_CACHE for name in _PREFIXES for family in ("albert", "mpnet", "reformer")},
    ("matrix", "prefix", "modernbert"): _MASK,
    ("matrix", "prefix-projection", "modernbert"): _NO_CACHE,
    **{("matrix", name, "gpt2"): _CONV1D for name in ("shira", "beft")},
    ("generation", "shira", "gpt2"): _CONV1D,
    **{
        ("matrix", name, family): _unclassed("opt.configuration_opt.OPTConfig")
        for name in _UNCLASSED
        for family in _OPT
    },
    **{
        ("matrix", name, "reformer"): _unclassed("reformer.configuration_reformer.ReformerConfig")
        for name in _UNCLASSED
    },
}

"""PEFT's prompt tuning and P-tuning. PEFT evaluates P-tuning's encoder when it saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.peft import PROMPT_EMBEDDINGS, FullName, PeftFiles, PeftType, PeftWriter
from manyhats.methods.libraries.peft_fields import INTEGER, NUMBER, OBJECT, PROMPT_FIELDS, TEXT
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.prompt.config import NAME, PROMPT_SITE, PromptConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _read(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Claims the tensor of a soft prompt, which replaces word embeddings."""
    prompt = unclaimed.claim_optional(PROMPT_EMBEDDINGS)
    if prompt is None:
        raise AdapterMismatch("the file has no 'prompt_embeddings'", param=PROMPT_EMBEDDINGS)
    modules = config.get("num_transformer_submodules")
    if modules not in (None, 1):
        raise AdapterMismatch(
            f"num_transformer_submodules is {short_repr(modules)}; the backbone {backbone.name} has 1",
            param="num_transformer_submodules",
        )
    declared = config.get("num_virtual_tokens")
    if declared is not None and (prompt.dim() != 2 or declared != prompt.shape[0]):
        raise AdapterMismatch(
            f"num_virtual_tokens is {short_repr(declared)}, but 'prompt_embeddings' has shape {list(prompt.shape)}",
            param="num_virtual_tokens",
        )
    return [Component(NAME, PromptConfig(), {PROMPT_SITE: {"prompt": prompt}})]


def _holds(component: Component[PromptConfig], backbone: Backbone) -> bool:
    return component.label in (None, NAME)


def _write(component: Component[PromptConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    """Also for P-tuning, whose encoder has been evaluated by then."""
    if component.config.after_embeddings:
        raise InvalidRequest("PEFT's prompts stand in place of word embeddings, not behind the embedding block")
    prompt = component.tensors[PROMPT_SITE]["prompt"]
    fields = {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": int(backbone.config.num_attention_heads),
        "num_layers": backbone.layers,
    }
    return PeftFiles(fields, {PROMPT_EMBEDDINGS: prompt})


PROMPT_TUNING = PeftType(
    "PROMPT_TUNING",
    _read,
    {
        **PROMPT_FIELDS,
        "prompt_tuning_init": TEXT,
        "prompt_tuning_init_text": TEXT,
        "tokenizer_name_or_path": TEXT,
        "tokenizer_kwargs": OBJECT,
    },
    prompt=True,
)
P_TUNING = PeftType(
    "P_TUNING",
    _read,
    {
        **PROMPT_FIELDS,
        "encoder_reparameterization_type": TEXT,
        "encoder_hidden_size": INTEGER,
        "encoder_num_layers": INTEGER,
        "encoder_dropout": NUMBER,
    },
    prompt=True,
)
PEFT_WRITER = PeftWriter(_holds, _write, prompt=True)

"""PEFT's prefix-tuning. PEFT evaluates its encoder when it saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.peft import PROMPT_EMBEDDINGS, FullName, PeftFiles, PeftType, PeftWriter
from manyhats.methods.libraries.peft_fields import FLAG, INTEGER, PROMPT_FIELDS
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.prefix.config import NAME, PrefixConfig, layer_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def _read(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """One tensor (length, 2 * layers * kv_heads * head_dim)."""
    table = unclaimed.claim_optional(PROMPT_EMBEDDINGS)
    if table is None:
        raise AdapterMismatch("the file has no 'prompt_embeddings'", param=PROMPT_EMBEDDINGS)
    heads, dim = backbone.kv_shape
    wanted = 2 * backbone.layers * heads * dim
    if table.dim() != 2 or table.shape[1] != wanted:
        raise AdapterMismatch(
            f"'prompt_embeddings' has shape {list(table.shape)}, but the backbone {backbone.name} needs "
            f"[rows, {wanted}] (2 x {backbone.layers} layers x {heads} heads x {dim})",
            param=PROMPT_EMBEDDINGS,
        )
    length = table.shape[0]
    for field, right in (
        ("num_virtual_tokens", length),
        ("num_layers", backbone.layers),
        ("token_dim", heads * dim),
    ):
        declared = config.get(field)
        if declared is not None and declared != right:
            raise AdapterMismatch(
                f"{field} is {short_repr(declared)}, but 'prompt_embeddings' {list(table.shape)} and the backbone "
                f"{backbone.name} make it {right}",
                param=field,
            )
    rows = table.view(length, 2 * backbone.layers, heads, dim)
    return [
        Component(
            NAME,
            PrefixConfig(length=length, shift_positions=True),
            {layer_site(i): {"keys": rows[:, 2 * i], "values": rows[:, 2 * i + 1]} for i in range(backbone.layers)},
        )
    ]


def _holds(component: Component[PrefixConfig], backbone: Backbone) -> bool:
    """Whether it is in all layers and shifts positions, as PEFT's are."""
    config = component.config
    return component.label in (None, NAME) and config.shift_positions and not config.left_out


def _write(component: Component[PrefixConfig], full: FullName, backbone: Backbone) -> PeftFiles:
    if component.gated:
        raise InvalidRequest("PEFT's prefixes have no gate")
    heads, dim = backbone.kv_shape
    fields = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": component.config.length,
        "token_dim": heads * dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": backbone.layers,
        "encoder_hidden_size": backbone.hidden,
        "prefix_projection": False,
    }
    rows = [component.tensors[layer_site(i)][leaf] for i in range(backbone.layers) for leaf in ("keys", "values")]
    return PeftFiles(fields, {PROMPT_EMBEDDINGS: torch.stack(rows, dim=1).reshape(component.config.length, -1)})


PREFIX_TUNING = PeftType(
    "PREFIX_TUNING", _read, {**PROMPT_FIELDS, "encoder_hidden_size": INTEGER, "prefix_projection": FLAG}, prompt=True
)
PEFT_WRITER = PeftWriter(_holds, _write, prompt=True)

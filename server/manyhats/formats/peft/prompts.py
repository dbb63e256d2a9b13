"""PEFT's prompt learning: prefix-tuning, prompt tuning and P-tuning, whose encoders PEFT folds in at saving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhats.errors import AdapterMismatch
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def prefix_part(unclaimed: UnclaimedTensors, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    table = unclaimed.claim_optional("prompt_embeddings")
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
                f"{field} is {short_repr(told)}, but 'prompt_embeddings' {list(table.shape)} and the backbone "
                f"{backbone.name} make it {right}",
                param=field,
            )
    rows = table.view(length, 2 * backbone.layers, heads, dim)
    return Component(
        "prefix",
        PrefixConfig(length=length, shift_positions=True),
        {layer_site(i): {"keys": rows[:, 2 * i], "values": rows[:, 2 * i + 1]} for i in range(backbone.layers)},
    )


def prompt_part(unclaimed: UnclaimedTensors, config: dict[str, Any], backbone: Backbone) -> Component[Any]:
    """Takes the tensor of a soft prompt, which stands in place of word embeddings."""
    prompt = unclaimed.claim_optional("prompt_embeddings")
    if prompt is None:
        raise AdapterMismatch("the file has no 'prompt_embeddings'", param="prompt_embeddings")
    modules = config.get("num_transformer_submodules")
    if modules not in (None, 1):
        raise AdapterMismatch(
            f"num_transformer_submodules is {short_repr(modules)}; the backbone {backbone.name} has 1",
            param="num_transformer_submodules",
        )
    told = config.get("num_virtual_tokens")
    if told is not None and (prompt.dim() != 2 or told != prompt.shape[0]):
        raise AdapterMismatch(
            f"num_virtual_tokens is {short_repr(told)}, but 'prompt_embeddings' has shape {list(prompt.shape)}",
            param="num_virtual_tokens",
        )
    return Component("prompt", PromptConfig(), {PROMPT_SITE: {"prompt": prompt}})

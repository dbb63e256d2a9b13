"""Types of PEFT whose methods do not bring them yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.libraries.peft import (
    PROMPT_EMBEDDINGS,
    WRAPPER,
    FullName,
    PeftFiles,
    PeftType,
    PeftWriter,
    claim,
    linear_in,
)
from manyhats.methods.libraries.peft_fields import FLAG, NUMBER, OBJECT, PROMPT_FIELDS, TEXT, WHOLE
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig
from manyhats.methods.sites import parameter_site
from manyhats.methods.sparse import SparseConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def ln_part(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Norms of their own in place of the backbone's."""
    sites, _ = claim(
        unclaimed,
        r"(.+)\.ln_tuning_layers\.(weight|bias)",
        lambda module: parameter_site(backbone, module).name,
    )
    if not sites:
        raise AdapterMismatch("the file has no ln_tuning_layers")
    return [Component("parameters", ParametersConfig(), sites, label="ln")]


def beft_part(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """A bias that is added to the backbone's."""
    sites, _ = claim(unclaimed, r"(.+)\.beft_bias", linear_in(backbone), "bias")
    if not sites:
        raise AdapterMismatch("the file has no beft_bias")
    for site, leaves in sites.items():
        own = backbone.linear[site].bias
        change = leaves["bias"].flatten().float()
        if own is not None and own.shape == change.shape:
            change = change + own.detach().float().cpu()
        leaves["bias"] = change
    return [Component("parameters", ParametersConfig(), sites, label="bias")]


def shira_part(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Sparse differences of linear weights: `shira_indices` (2, n) rows and columns, `shira_weight` (n,)."""
    pairs, _ = claim(unclaimed, r"(.+)\.shira_(weight|indices)", linear_in(backbone))
    if not pairs:
        raise AdapterMismatch("the file has no shira_weight and shira_indices")
    sites: SiteTensors = {}
    for site, leaves in pairs.items():
        indices, values = leaves.get("indices"), leaves.get("weight")
        if indices is None or values is None or tuple(indices.shape) != (2, values.numel()):
            raise AdapterMismatch(f"shira_indices and shira_weight of '{site}' do not belong together", param=site)
        out, width = backbone.linear[site].shape
        rows, columns = indices.long()
        if bool((rows < 0).any() | (rows >= out).any() | (columns < 0).any() | (columns >= width).any()):
            raise AdapterMismatch(f"shira_indices of '{site}' lie outside of [{out}, {width}]", param=site)
        flat, where = torch.unique(rows * width + columns, return_inverse=True)
        summed = torch.zeros(len(flat)).index_add_(0, where, values.flatten().float())
        sites[site] = {"weight.indices": flat, "weight.values": summed}
    return [Component("sparse", SparseConfig(mode="add"), sites, label="shira")]


def prefix_part(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
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
            "prefix",
            PrefixConfig(length=length, shift_positions=True),
            {layer_site(i): {"keys": rows[:, 2 * i], "values": rows[:, 2 * i + 1]} for i in range(backbone.layers)},
        )
    ]


def prompt_part(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    """Takes the tensor of a soft prompt, which stands in place of word embeddings."""
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
    return [Component("prompt", PromptConfig(), {PROMPT_SITE: {"prompt": prompt}})]


def _prompt(part: Component[Any], full: FullName, backbone: Backbone) -> PeftFiles:
    """P-tuning's too, whose encoder is folded in."""
    if part.config.after_embeddings:
        raise InvalidRequest("PEFT's prompts stand in place of word embeddings, not behind the embedding block")
    prompt = part.tensors[PROMPT_SITE]["prompt"]
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


def _prefix(part: Component[Any], full: FullName, backbone: Backbone) -> PeftFiles:
    """PEFT's tensor is (length, 2 * layers * heads * dim)."""
    if part.gated:
        raise InvalidRequest("PEFT's prefixes have no gate")
    heads, dim = backbone.kv_shape
    fields = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": part.config.length,
        "token_dim": heads * dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": backbone.layers,
        "encoder_hidden_size": backbone.hidden,
        "prefix_projection": False,
    }
    rows = [part.tensors[layer_site(i)][leaf] for i in range(backbone.layers) for leaf in ("keys", "values")]
    return PeftFiles(fields, {PROMPT_EMBEDDINGS: torch.stack(rows, dim=1).reshape(part.config.length, -1)})


def _norms(part: Component[Any], full: FullName, backbone: Backbone) -> PeftFiles:
    tensors = {
        f"{WRAPPER}{full(site)}.ln_tuning_layers.{leaf}": tensor
        for site, leaves in part.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return PeftFiles({"peft_type": "LN_TUNING", "target_modules": sorted(full(site) for site in part.tensors)}, tensors)


_PROMPT_TUNING = {
    **PROMPT_FIELDS,
    "prompt_tuning_init": TEXT,
    "prompt_tuning_init_text": TEXT,
    "tokenizer_name_or_path": TEXT,
    "tokenizer_kwargs": OBJECT,
}
_P_TUNING = {
    **PROMPT_FIELDS,
    "encoder_reparameterization_type": TEXT,
    "encoder_hidden_size": WHOLE,
    "encoder_num_layers": WHOLE,
    "encoder_dropout": NUMBER,
}
FALLBACK = {
    peft_type.name: peft_type
    for peft_type in (
        PeftType("LN_TUNING", ln_part, {}, leaves=("ln_tuning_layers",)),
        PeftType("BEFT", beft_part, {}, leaves=("beft_bias",)),
        PeftType(
            "SHIRA",
            shira_part,
            {"r": WHOLE, "mask_type": TEXT, "random_seed": WHOLE},
            leaves=("shira_weight", "shira_indices"),
        ),
        PeftType(
            "PREFIX_TUNING",
            prefix_part,
            {**PROMPT_FIELDS, "encoder_hidden_size": WHOLE, "prefix_projection": FLAG},
            prompt=True,
        ),
        PeftType("PROMPT_TUNING", prompt_part, _PROMPT_TUNING, prompt=True),
        PeftType("P_TUNING", prompt_part, _P_TUNING, prompt=True),
    )
}
FALLBACK_WRITERS: dict[str, PeftWriter[Any]] = {  # by what the component is called
    "prefix": PeftWriter(
        lambda part, backbone: part.config.shift_positions and not part.config.left_out, _prefix, prompt=True
    ),
    "prompt": PeftWriter(lambda part, backbone: True, _prompt, prompt=True),
    "ln": PeftWriter(lambda part, backbone: all(site in backbone.norm for site in part.tensors), _norms),
}

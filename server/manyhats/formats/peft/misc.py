"""PEFT's further methods, and what may be saved beside any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.sites import LM_HEAD
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.libraries.equal_weights import equal_weights
from manyhats.methods.libraries.peft import PROMPT_WRAPPER, WRAPPER, claim, linear_in
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.registry import METHODS
from manyhats.methods.sites import parameter_site
from manyhats.methods.sparse import SparseConfig
from manyhats.methods.token_rows import TokenRowsConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manyhats.backbone import Backbone


def ia3_part(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[Any]:
    """The vector's own shape says which side of the layer it rescales: (out, 1) or (1, in)."""
    sites, _ = claim(unclaimed, r"(.+)\.ia3_l", linear_in(backbone), "l")
    if not sites:
        raise AdapterMismatch("the file has no ia3_l weights")
    for site, leaves in sites.items():
        vector = leaves.pop("l")
        if vector.dim() != 2 or 1 not in vector.shape:
            raise AdapterMismatch(
                f"ia3_l of '{site}' has shape {list(vector.shape)}, but must be a row or a column", param=site
            )
        leaves["input" if vector.shape[0] == 1 and vector.shape[1] > 1 else "output"] = vector.flatten()
    return Component("ia3", Ia3Config(), sites)


def ln_part(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[Any]:
    """Norms of their own in place of the backbone's."""
    sites, _ = claim(
        unclaimed,
        r"(.+)\.ln_tuning_layers\.(weight|bias)",
        lambda module: parameter_site(backbone, module).name,
    )
    if not sites:
        raise AdapterMismatch("the file has no ln_tuning_layers")
    return Component("parameters", ParametersConfig(), sites, label="ln")


def beft_part(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[Any]:
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
    return Component("parameters", ParametersConfig(), sites, label="bias")


def shira_part(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[Any]:
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
    return Component("sparse", SparseConfig(mode="add"), sites, label="shira")


def token_rows_part(unclaimed: UnclaimedTensors, indices: Any, backbone: Backbone) -> Component[Any] | None:
    """Trained tokens, alone (TRAINABLE_TOKENS) or beside a LoRA. `indices`: a list, or one for each module's name."""
    found, modules = claim(
        unclaimed,
        r"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta",
        lambda module: module if module == LM_HEAD else parameter_site(backbone, module).name,
        "rows",
    )
    for site, leaves in found.items():
        leaves["ids"] = _ids(indices, modules[site], len(leaves["rows"]))
    return Component("token_rows", TokenRowsConfig(), found) if found else None


def _ids(indices: Any, module: str, count: int) -> Tensor:
    if isinstance(indices, dict):
        indices = next((v for name, v in indices.items() if module == name or module.endswith(f".{name}")), None)
    if not isinstance(indices, list) or any(type(i) is not int for i in indices) or len(indices) != count:
        raise AdapterMismatch(
            f"the file has {count} trained tokens of '{module}', but the config names {short_repr(indices)}",
            param="trainable_token_indices",
        )
    try:
        return torch.tensor(indices, dtype=torch.long)
    except (RuntimeError, OverflowError) as error:
        raise InvalidRequest(f"a trained token's number is out of range: {error}", param="token_indices") from None


def table_part(unclaimed: UnclaimedTensors, lora: Component[Any], backbone: Backbone) -> Component[Any] | None:
    """Takes the whole embedding or output layer that PEFT saves beside a LoRA on it, where it is not the backbone's.

    Raises AdapterMismatch for one of another size, and beneath a DoRA, whose norms are those of the backbone's.
    """
    sites: SiteTensors = {}
    for name in unclaimed.names():
        module, found, _ = name.removeprefix(WRAPPER).partition(".base_layer.weight")
        site = backbone.find(backbone.bare_name(module)) if found else None
        own = None if site is None else site.parameter("weight")
        if site is None or own is None:
            continue
        tensor = site.to_canonical("weight", unclaimed.claim(name))
        _check_rows(tensor, own, module, backbone)
        if equal_weights(tensor, own):
            continue
        if "magnitude" in lora.tensors.get(site.name, ()):
            raise AdapterMismatch(
                f"the file brings weights for '{module}' that are not the backbone's own, with a DoRA on them, which "
                "is not supported; save the adapter with save_embedding_layers=False if they were not trained",
                param=name,
            )
        sites[site.name] = {"weight": tensor}
    return Component("parameters", ParametersConfig(), sites) if sites else None


def _check_rows(tensor: Tensor, own: Tensor, module: str, backbone: Backbone) -> None:
    """Raises AdapterMismatch for a vocabulary's table of another length."""
    if tensor.dim() == own.dim() == 2 and tensor.shape[1] == own.shape[1] and len(tensor) != len(own):
        raise AdapterMismatch(
            f"'{module}' has {len(tensor)} rows, but the backbone {backbone.name} has {len(own)}: an adapter with a "
            "vocabulary that was resized for it is not supported; merge it into its model and give that to the server "
            "as the backbone, or train it without new tokens",
            param=module,
        )


def check_tied(parts: Sequence[Component[Any]], config: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises AdapterMismatch where PEFT would adapt a tied output layer as the embedding, and the file holds but one.

    PEFT saves both; the rows of trained tokens are the output layer's as well.
    """
    head = backbone.vocabulary
    if not config.get("ensure_weight_tying") or head is None or not head.tied:
        return
    shared = {backbone.family.word_embeddings, head.output_layer}
    for part in parts:
        found = shared & part.tensors.keys()
        if not METHODS[part.method].tied_to_lm_head_ok and len(found) == 1:
            raise AdapterMismatch(
                f"ensure_weight_tying is set, but the file adapts '{min(found)}' alone, and not "
                f"'{min(shared - found)}', which shares its weight",
                param="ensure_weight_tying",
            )


def whole_parameters(unclaimed: UnclaimedTensors, backbone: Backbone) -> Component[Any] | None:
    """What is left of the backbone's own parameters: `bias: all`, and modules that were trained whole.

    A weight (out, in) that is the backbone's own, as PEFT saves a vocabulary's on its own account, is taken and does
    nothing.
    """
    sites: SiteTensors = {}
    for name in unclaimed.names():
        bare = name.removeprefix(WRAPPER) if name.startswith(WRAPPER) else name.removeprefix(PROMPT_WRAPPER)
        if backbone.vocabulary is not None and bare in backbone.vocabulary.bias_names:
            bare = f"{backbone.vocabulary.output_layer}.bias"
        module, _, leaf = bare.rpartition(".")
        site = backbone.find(backbone.bare_name(module))
        if site is None or site.parameter(leaf) is None:
            continue
        tensor, own = site.to_canonical(leaf, unclaimed.claim(name)), site.parameter(leaf)
        if leaf == "weight" and (site.name in backbone.embedding or backbone.in_vocabulary_head(site.name)):
            assert own is not None
            _check_rows(tensor, own, module, backbone)
        if tensor.dim() == 2 and own is not None and equal_weights(tensor, own):
            continue
        leaves = sites.setdefault(site.name, {})
        if leaf in leaves and not equal_weights(leaves[leaf], tensor):
            raise InvalidRequest(f"the file has two values for '{bare}', the other is '{name}'", param=name)
        leaves[leaf] = tensor
    if not sites:
        return None
    only = {leaf for leaves in sites.values() for leaf in leaves}
    return Component("parameters", ParametersConfig(), sites, label="bias" if only == {"bias"} else None)

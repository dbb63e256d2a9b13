"""The network of a side adapter: built from its config, within limits, and the parameters that a file must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from manyhats.backbone.families import FAMILIES
from manyhats.errors import AdapterMismatch
from manyhats.messages import first_line
from manyhats.methods.component import StateDict
from manyhats.methods.side.config import MAX_LAYERS, NETWORK, SideConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_MAX_WIDTH = 16384
# The limits of a side network's config, checked before anything is built, by the families' names.
_SIZES = (
    dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups"), MAX_LAYERS)
    | dict.fromkeys(("hidden_size", "dim", "n_embd", "embedding_size", "word_embed_proj_dim"), _MAX_WIDTH)
    | dict.fromkeys(("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"), 4 * _MAX_WIDTH)
    | dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"), 256)
    | dict.fromkeys(("head_dim", "type_vocab_size"), 4096)
    | {"vocab_size": 1 << 20, "max_position_embeddings": 1 << 17, "n_positions": 1 << 17, "inner_group_num": 1}
)
# Fields that a network without a head does not need.
_LEFT_OUT = (
    "dtype", "torch_dtype", "architectures", "transformers_version", "quantization_config", "auto_map", "num_labels",
    "id2label", "label2id",
)  # fmt: skip


def network_leaves(leaves: StateDict) -> dict[str, Tensor]:
    """The network's tensors, by its own names."""
    return {name.removeprefix(NETWORK): tensor for name, tensor in leaves.items() if name.startswith(NETWORK)}


def build_network(config: SideConfig, backbone: Backbone) -> PreTrainedModel:
    """The network, uninitialised. Raises AdapterMismatch for a config that cannot be built."""
    given = dict(config.model)
    if config.kind == "layers":
        if not config.layers:
            raise AdapterMismatch("a side network of the kind 'layers' needs one or more", param="layers")
        given = backbone.config.to_dict()
        given |= {"num_hidden_layers": config.layers, "vocab_size": max(int(given.get("pad_token_id") or 0) + 1, 2)}
        given.pop("layer_types", None)
    model_type = given.pop("model_type", None)
    if model_type not in FAMILIES or not FAMILIES[model_type].packed:
        known = ", ".join(sorted(name for name, family in FAMILIES.items() if family.packed))
        raise AdapterMismatch(
            f"a side network of type {model_type!r} is not supported; these are: {known}", param="model"
        )
    for name, maximum in _SIZES.items():
        value = 1 if given.get(name) is None else given[name]
        if type(value) is not int or not 1 <= value <= maximum:
            raise AdapterMismatch(
                f"{name} of the side network must lie between 1 and {maximum}, not {value!r}", param=name
            )
    for name in _LEFT_OUT:
        given.pop(name, None)
    try:
        made = AutoConfig.for_model(model_type, **given)
        made.chunk_size_feed_forward = 0
        network: PreTrainedModel = AutoModel.from_config(made)
    except Exception as error:
        reason = first_line(error)
        raise AdapterMismatch(f"the side network's config makes no model: {reason}", param="model") from None
    if config.kind == "model" and made.vocab_size < backbone.config.vocab_size:
        raise AdapterMismatch(
            f"the side network knows {made.vocab_size} tokens, the backbone {backbone.config.vocab_size}",
            param="vocab_size",
        )
    return network


def needed_parameters(network: PreTrainedModel, config: SideConfig) -> Mapping[str, tuple[int, ...]]:
    """The parameters that a file must hold, with their shapes: all but the pooler's, and on the backbone's embeddings
    those of the network's own."""
    tables = {name for name, module in network.named_modules() if isinstance(module, nn.Embedding)}

    def unused(name: str) -> bool:
        if name.startswith("pooler."):
            return True
        module = name.rpartition(".")[0]
        return config.kind == "layers" and (
            module in tables or any(step.startswith("embed") for step in module.split("."))
        )

    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if not unused(name)}

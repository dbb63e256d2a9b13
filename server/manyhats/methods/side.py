"""Side-tuning: a small network beside the frozen backbone, blended with it (Zhang et al. 2020, section 3).

    R(x) = sigmoid(alpha) B(x) + (1 - sigmoid(alpha)) S(x)        at the last hidden states

The side network S is a smaller pretrained model on the same tokens, or blocks of the backbone's own architecture on the
backbone's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from manyhats.backbone.attention import PACKED_ATTENTION
from manyhats.backbone.families import FAMILIES
from manyhats.backbone.model import Backbone
from manyhats.backbone.packing import pack
from manyhats.backbone.sites import EMBEDDED, LAST, Actors
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import first_line
from manyhats.methods.base import (
    BoundComponent,
    Method,
    SequenceSlices,
    Trainable,
    expect_leaves,
    expect_shape,
    on_device,
    reject_padded,
)
from manyhats.methods.component import Component, MethodConfig, StateDict
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch

SIDE_SITE = "side"
_NETWORK = "network."
_MOST_LAYERS = 64
_MOST_WIDTH = 16384
# What a side network's config may ask for, before anything is built; families call these otherwise.
_SIZES = (
    dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups"), _MOST_LAYERS)
    | dict.fromkeys(("hidden_size", "dim", "n_embd", "embedding_size", "word_embed_proj_dim"), _MOST_WIDTH)
    | dict.fromkeys(("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"), 4 * _MOST_WIDTH)
    | dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"), 256)
    | dict.fromkeys(("head_dim", "type_vocab_size"), 4096)
    | {"vocab_size": 1 << 20, "max_position_embeddings": 1 << 17, "n_positions": 1 << 17, "inner_group_num": 1}
)
# What a config may hold that a network without a head does not need.
_LEFT_OUT = (
    "dtype", "torch_dtype", "architectures", "transformers_version", "quantization_config", "auto_map", "num_labels",
    "id2label", "label2id",
)  # fmt: skip


class SideConfig(MethodConfig):
    """`kind`: a model of its own (`model`: its transformers config), or `layers` blocks of the backbone's kind."""

    kind: Literal["model", "layers"]
    model: dict[str, Any] = Field(default_factory=dict)
    layers: int = Field(default=0, ge=0, le=_MOST_LAYERS)


@dataclass(slots=True)
class _Side:
    """The network, and what it reads of the pass under way."""

    network: Backbone
    blend: Tensor  # sigmoid(alpha): () or (width,)
    projection: tuple[Tensor, Tensor | None] | None
    on_embeddings: bool
    caught: Tensor | None = None

    def catch(self, states: Tensor, spans: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        self.caught = states
        return states

    def mix(self, states: Tensor, spans: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        places = batch.spans(sequences)
        ids = [batch.host_input_ids[span].tolist() for span in places]
        types = [[0] * len(one) for one in ids]
        if batch.host_type_ids is not None:
            types = [batch.host_type_ids[span].tolist() for span in places]
        actors = Actors()
        if self.on_embeddings:
            caught, self.caught = self.caught, None
            assert caught is not None
            ids = [[0] * len(one) for one in ids]  # its own table is not used
            actors = Actors(states={EMBEDDED: lambda own: caught})
        side = self.network.encode(pack(self.network, ids, types), actors)
        if self.projection is not None:
            side = F.linear(side, *self.projection)
        return self.blend * states + (1 - self.blend) * side


class Side(Method[SideConfig]):
    """Leaves at `side`: `alpha` () or (1,) or (width,), before the sigmoid; `network.<parameter>`; where the widths
    differ `projection.weight` (width, side width) and maybe `projection.bias`."""

    name: ClassVar[str] = "side"
    config = SideConfig
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "prompt": "a prompt's virtual tokens mean nothing to a side network",
    }

    def non_causal(self, component: Component[SideConfig]) -> bool:
        return True  # its network reads the text by itself

    def check(self, component: Component[SideConfig], backbone: Backbone) -> None:
        reject_padded(backbone, "a side network")
        if set(component.tensors) != {SIDE_SITE}:
            raise AdapterMismatch("a side network stands beside the whole backbone", param=SIDE_SITE)
        leaves = component.tensors[SIDE_SITE]
        expect_leaves(leaves, ("alpha",), SIDE_SITE)
        width = backbone.output_width
        if tuple(leaves["alpha"].shape) not in ((), (1,)):
            expect_shape(leaves["alpha"], (width,), "alpha", backbone)
        with torch.device("meta"):
            network = _build(component.config, backbone)
        needed = _needed(network, component.config)
        given = _network_leaves(leaves)
        odd = [name for name in given if name not in needed and not name.startswith("pooler.")]
        missing = [name for name in needed if name not in given]
        if odd or missing:
            told = f"has no '{missing[0]}'" if missing else f"has '{odd[0]}', which the config's network has not"
            raise AdapterMismatch(f"the side network {told}", param=(missing or odd)[0])
        for name, shape in needed.items():
            expect_shape(given[name], shape, f"side.{name}", backbone)
        side_width = FAMILIES[network.config.model_type].output_width(network.config)
        if "projection.weight" in leaves:
            expect_shape(leaves["projection.weight"], (width, side_width), "projection.weight", backbone)
            if "projection.bias" in leaves:
                expect_shape(leaves["projection.bias"], (width,), "projection.bias", backbone)
        elif side_width != width:
            raise AdapterMismatch(
                f"the side network is {side_width} wide, the backbone {backbone.name} {width}; a projection is needed",
                param="projection",
            )
        strange = [n for n in leaves if n not in ("alpha", "projection.weight", "projection.bias")]
        strange = [n for n in strange if not n.startswith(_NETWORK)]
        if strange:
            raise AdapterMismatch(f"a side network has no place for '{strange[0]}'", param=strange[0])

    def bind(self, component: Component[SideConfig], backbone: Backbone) -> BoundComponent:
        leaves = component.tensors[SIDE_SITE]
        network = _build(component.config, backbone)
        given = {name: t for name, t in _network_leaves(leaves).items() if not name.startswith("pooler.")}
        network.load_state_dict({name: t.float() for name, t in given.items()}, strict=False)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None
        network.set_attn_implementation(PACKED_ATTENTION)
        beside = Backbone(network, backbone.tokenizer, name="side", device=backbone.device, dtype=backbone.dtype)
        ready = on_device({n: t for n, t in leaves.items() if not n.startswith(_NETWORK)}, backbone)
        projection = None
        if "projection.weight" in ready:
            projection = ready["projection.weight"], ready.get("projection.bias")
        side = _Side(beside, torch.sigmoid(ready["alpha"]), projection, component.config.kind == "layers")
        steps = {LAST: side.mix} | ({EMBEDDED: side.catch} if side.on_embeddings else {})
        return BoundComponent(states=steps, nbytes=sum(p.nbytes for p in network.parameters()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        layers = chosen.integer("layers", 1, least=1)
        start = chosen.choice("start", "copy", ("copy", "fresh"))
        chosen.done()
        reject_padded(backbone, "a side network")
        if layers > backbone.layers:
            raise InvalidRequest(f"side: layers must be at most {backbone.layers}, not {layers}", param="layers")
        return _TrainableSide(backbone, SideConfig(kind="layers", layers=layers), start, generator)


def _network_leaves(leaves: StateDict) -> dict[str, Tensor]:
    return {name.removeprefix(_NETWORK): tensor for name, tensor in leaves.items() if name.startswith(_NETWORK)}


def _build(config: SideConfig, backbone: Backbone) -> PreTrainedModel:
    """The network, with whatever weights. Raises AdapterMismatch for a config that makes none."""
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
    for name, most in _SIZES.items():
        value = 1 if given.get(name) is None else given[name]
        if type(value) is not int or not 1 <= value <= most:
            raise AdapterMismatch(
                f"{name} of the side network must lie between 1 and {most}, not {value!r}", param=name
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


def _needed(network: PreTrainedModel, config: SideConfig) -> Mapping[str, tuple[int, ...]]:
    """The parameters that a file must bring, with their shapes. The pooler is not used, nor, on the backbone's
    embeddings, what makes embeddings."""
    tables = {name for name, module in network.named_modules() if isinstance(module, nn.Embedding)}

    def unused(name: str) -> bool:
        if name.startswith("pooler."):
            return True
        module = name.rpartition(".")[0]
        return config.kind == "layers" and (
            module in tables or any(step.startswith("embed") for step in module.split("."))
        )

    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if not unused(name)}


class _TrainableSide(Trainable):
    """Blocks of the backbone's kind, which start as its first ones or fresh, and alpha, which starts in the middle
    (section 3.1)."""

    def __init__(self, backbone: Backbone, config: SideConfig, start: str, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # transformers draws from the global source
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
            network = _build(config, backbone)
        needed = _needed(network, config)
        if start == "copy":
            own = backbone.model.state_dict()
            network.load_state_dict({name: own[name] for name in needed}, strict=False)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None
        network.set_attn_implementation(PACKED_ATTENTION)
        self.beside = Backbone(network, backbone.tokenizer, name="side", device=backbone.device, dtype=torch.float32)
        self.trained = list(needed)
        self.alpha = nn.Parameter(torch.zeros((), device=backbone.device))
        self.network = network
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in needed)

    @property
    def rates(self) -> Mapping[str, float]:
        return {"alpha": 50.0}  # one number that all depends on

    def train(self, mode: bool = True) -> _TrainableSide:
        """Its blocks run as the backbone's do, without dropout."""
        self.training = mode
        return self

    def bound(self) -> BoundComponent:
        side = _Side(self.beside, torch.sigmoid(self.alpha), None, on_embeddings=True)
        return BoundComponent(states={LAST: side.mix, EMBEDDED: side.catch})

    def component(self) -> Component[SideConfig]:
        state = self.network.state_dict()
        leaves = {f"{_NETWORK}{name}": state[name].detach().cpu().clone() for name in self.trained}
        return Component(Side.name, self.config, {SIDE_SITE: leaves | {"alpha": self.alpha.detach().cpu()}})

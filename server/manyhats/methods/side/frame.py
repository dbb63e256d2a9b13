"""Frames of side networks: the modules that all networks with one config run through, each with its own weights.

A network is an adapter of its frame that replaces every weight, so networks of many tasks share one pass over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from manyhats.backbone.attention import PACKED_ATTENTION
from manyhats.backbone.model import Backbone
from manyhats.backbone.sites import EmbeddingSite, LinearSite
from manyhats.kernels.base import Rows, ScaleAdd, Weight
from manyhats.methods.base import BoundComponent
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.copy_stream import in_passes_order
from manyhats.methods.full_parameters import Parameters
from manyhats.methods.operations import Operation, OwnNorm, OwnRows, OwnWeight, bytes_of
from manyhats.methods.side.network import build_network
from manyhats.methods.sites import parameter_site
from manyhats.methods.slots import SlotTables, slot_tables

if TYPE_CHECKING:
    from manyhats.methods.side.config import SideConfig


def frame_of(config: SideConfig, backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """The frame of a config, which is kept while a network uses it. Raises AdapterMismatch for a config that cannot be
    built."""
    frames: WeakValueDictionary[str, Backbone] = backbone.kept.setdefault(frame_of, WeakValueDictionary())
    # torch takes no gradients through what was made in inference mode.
    mode = "inference" if torch.is_inference_mode_enabled() else "training"
    key = f"{mode} {dtype} {json.dumps(config.model_dump(), sort_keys=True)}"
    frame = frames.get(key)
    if frame is None:
        with in_passes_order(backbone.device):
            frame = frames.setdefault(key, _new_frame(config, backbone, dtype))
    return frame


def _new_frame(config: SideConfig, backbone: Backbone, dtype: torch.dtype) -> Backbone:
    network = build_network(config, backbone)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    network.set_attn_implementation(PACKED_ATTENTION)
    frame = Backbone(network, backbone.tokenizer, name="side", device=backbone.device, dtype=dtype)
    frame.kept[SlotTables] = SlotTables(slot_tables(backbone).kernels)
    for site in [*frame.linear.values(), *frame.embedding.values()]:
        for name, own in site.module.named_parameters(recurse=False):  # nobody needs them, so they are a row each
            row = own.new_zeros((1, *own.shape[1:]))
            site.module.register_parameter(name, nn.Parameter(row.expand(own.shape), requires_grad=False))
    return frame


@dataclass(frozen=True, eq=False)
class SideNetwork:
    """The weights of one network, as operations at the sites of its frame."""

    linear: Mapping[str, Sequence[Operation]]
    embedding: Mapping[str, OwnRows]
    norm: Mapping[str, OwnNorm]

    @cached_property
    def adapter(self) -> BoundAdapter:
        """The network as an adapter of its frame."""
        bound = BoundComponent(linear=self.linear, embedding=self.embedding, norm=self.norm)
        return BoundAdapter(method=Parameters.name, components=((Parameters(), bound),), head=None)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        operations = [one for several in self.linear.values() for one in several]
        return sum(map(bytes_of, [*operations, *self.embedding.values(), *self.norm.values()]))


def network_of(parameters: Mapping[str, Tensor], frame: Backbone) -> SideNetwork:
    """The network with these parameters, by their names in it."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in parameters.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    linear: dict[str, list[Operation]] = {}
    embedding: dict[str, OwnRows] = {}
    norm: dict[str, OwnNorm] = {}
    for module, leaves in modules.items():
        site = parameter_site(frame, module)
        weight, bias = leaves["weight"], leaves.get("bias")
        if isinstance(site, LinearSite):
            linear[site.name] = [OwnWeight(Weight(site.to_canonical("weight", weight).contiguous(), bias))]
        elif isinstance(site, EmbeddingSite):
            embedding[site.name] = OwnRows(Rows(weight))
        else:
            norm[site.name] = OwnNorm(ScaleAdd(weight.float(), None if bias is None else bias.float()))
    return SideNetwork(linear, embedding, norm)

"""Prefix-tuning: learned keys and values before every sequence's own, in each layer (Li & Liang 2021, section 4).

Nothing is inserted into the residual stream: the prefix is seen by attention alone. The prefix is stored once for an
adapter, however many sequences of a batch attend to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from manyhats.backbone.packing import pack
from manyhats.backbone.sites import Actors, KeyValueActor
from manyhats.errors import AdapterMismatch
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Pair,
    SequenceSlices,
    Trainable,
    expect_leaves,
    expect_shape,
    init_gate,
    init_parameter,
    on_device,
    pair_of,
    parameter_key,
    reject_padded,
)
from manyhats.methods.component import Component, MethodConfig, StateDict
from manyhats.methods.operations import PrefixRows, gate_means
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class PrefixConfig(MethodConfig):
    """`shift_positions`: real tokens' positions start after the prefix (PEFT), or at the beginning (AdapterHub).

    `left_out`: layers that have no prefix.
    """

    length: int
    shift_positions: bool = True
    left_out: list[int] = Field(default_factory=list)


def layer_site(layer: int) -> str:
    """The name that a layer's keys and values have in a part."""
    return f"layers.{layer}.key_value"


class Prefix(Method[PrefixConfig]):
    """Leaves at the `key_value` of every layer that is not left out: `keys` and `values`, (length, kv_heads, head_dim);
    where the prefix is gated `gate.weight` (1, width) and `gate.bias` (1,)."""

    name: ClassVar[str] = "prefix"
    config = PrefixConfig

    def check(self, component: Component[PrefixConfig], backbone: Backbone) -> None:
        length = component.config.length
        reject_padded(backbone, "a prefix")
        if length < 1:
            raise AdapterMismatch("the prefix has no rows", param="num_virtual_tokens")
        if component.config.shift_positions and length + 3 > backbone.max_tokens:
            raise AdapterMismatch(
                f"the prefix has {length} rows, which leaves no room in the backbone's {backbone.max_tokens} positions",
                param="num_virtual_tokens",
            )
        left_out = component.config.left_out
        if any(not 0 <= layer < backbone.layers for layer in left_out):
            raise AdapterMismatch(
                f"the prefix leaves out the layers {left_out}, but the backbone {backbone.name} has {backbone.layers}",
                param="left_out",
            )
        wanted = {layer_site(i) for i in range(backbone.layers) if i not in left_out}
        if set(component.tensors) != wanted or not wanted:
            raise AdapterMismatch(
                f"the prefix is for {len(component.tensors)} layers, but the backbone {backbone.name} has "
                f"{backbone.layers}" + (f", of which it leaves out {len(set(left_out))}" if left_out else ""),
                param="num_layers",
            )
        gated = any("gate.weight" in leaves for leaves in component.tensors.values())
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("keys", "values"), site)
            for name in ("keys", "values"):
                expect_shape(leaves[name], (length, *backbone.kv_shape), f"{site}.{name}", backbone)
            if gated != ("gate.weight" in leaves):
                raise AdapterMismatch("a prefix is gated in all layers or in none", param=site)
            if gated:
                expect_leaves(leaves, ("gate.weight", "gate.bias"), site)
                expect_shape(leaves["gate.weight"], (1, backbone.hidden), f"{site}.gate.weight", backbone)
                expect_shape(leaves["gate.bias"], (1,), f"{site}.gate.bias", backbone)

    def check_together(self, components: Sequence[Component[PrefixConfig]]) -> None:
        if len({component.gated for component in components}) > 1:
            raise AdapterMismatch("of several prefixes in one adapter all are gated or none", param="parts")
        if len(components) > 1 and any(component.config.left_out for component in components):
            raise AdapterMismatch("of several prefixes in one adapter each must be for all layers", param="leave_out")

    def bind(self, component: Component[PrefixConfig], backbone: Backbone) -> BoundComponent:
        left_out = frozenset(component.config.left_out)
        rows: dict[int, Any] = {
            layer: _rows(on_device(component.tensors[layer_site(layer)], backbone))
            for layer in range(backbone.layers)
            if layer not in left_out
        }
        gated = any(isinstance(one, _GatedRows) for one in rows.values())
        if left_out:
            empty = torch.zeros_like(next(iter(rows.values())).keys)
            rows |= dict.fromkeys(left_out, _NoRows(empty, gated))
        return _bound(rows, component.config, self.slot_size(component, backbone), gated=gated)

    def rank(self, component: Component[PrefixConfig]) -> int | None:
        return component.config.length

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        length = chosen.integer("length", 16, least=1)
        inner = chosen.integer("reparametrisation", 0, least=0)
        gated = chosen.flag("gated")
        chosen.done()
        reject_padded(backbone, "a prefix")
        return _TrainablePrefix(backbone, length, inner, generator, gated=gated)


@dataclass(slots=True)
class _GatedRows:
    """A prefix that each sequence weighs for itself: rows * mean over its tokens of sigmoid(gate(hidden)).

    UniPELT (Mao et al. 2022, section 3.1), as AdapterHub computes it. `gate`: (1, width) and (1,).
    """

    keys: Tensor
    values: Tensor
    gate: Pair

    def __call__(self, hidden: Tensor, spans: SequenceSlices) -> tuple[Tensor, Tensor]:
        gates = gate_means(F.linear(hidden, *self.gate), spans)[:, None, None, None]
        return (self.keys * gates).flatten(0, 1), (self.values * gates).flatten(0, 1)


@dataclass(slots=True)
class _NoRows:
    """Stands where a layer has no prefix, so that rows have the same numbers in all layers; attention leaves it out."""

    empty: Tensor  # (length, kv_heads, head_dim)
    each: bool

    def __call__(self, hidden: Tensor, spans: SequenceSlices) -> tuple[Tensor, Tensor]:
        rows = self.empty.repeat(len(spans), 1, 1) if self.each else self.empty
        return rows, rows


def _rows(leaves: StateDict) -> PrefixRows | _GatedRows:
    gate = pair_of(leaves, "gate")
    own = leaves["keys"], leaves["values"]
    return PrefixRows(*own) if gate is None else _GatedRows(*own, gate)


def _bound(rows: Mapping[int, Any], config: PrefixConfig, nbytes: int = 0, *, gated: bool = False) -> BoundComponent:
    """`rows`: by layer `PrefixRows`, or `_GatedRows` for all."""
    return BoundComponent(
        key_value=rows,
        prefix_rows=config.length,
        prefix_each=gated,
        prefix_left_out=frozenset(config.left_out),
        position_offset=config.length if config.shift_positions else 0,
        nbytes=nbytes,
    )


class _TrainablePrefix(Trainable):
    """Trained through an MLP, which is dropped at saving: the paper found the bare parameters unstable (section 4.3).

    It starts at the keys and values that the backbone has for real words, as the paper advises for little data (section
    7.4). `inner` 0 trains the keys and values themselves.
    """

    def __init__(self, backbone: Backbone, length: int, inner: int, generator: torch.Generator, *, gated: bool) -> None:
        super().__init__()
        self.config = PrefixConfig(length=length)
        self.layers = backbone.layers
        self.kv_shape = backbone.kv_shape
        self.start: Tensor
        self.register_buffer("start", _activations(backbone, length, generator))
        out = self.start.shape[1]

        width = backbone.hidden
        self.table = nn.Parameter(torch.zeros_like(self.start))
        self.mlp = nn.ParameterList()
        if inner:
            self.table = init_parameter(backbone, (length, width), 1.0, generator)
            self.mlp.append(init_parameter(backbone, (inner, width), width**-0.5, generator))
            self.mlp.append(nn.Parameter(torch.zeros(out, inner, device=backbone.device)))
        self.gates = nn.ParameterDict()
        for layer in range(self.layers if gated else 0):
            for name, value in init_gate(backbone, width, generator).items():
                self.gates[parameter_key(layer_site(layer), name)] = value

    def _leaves(self) -> dict[int, dict[str, Tensor]]:
        """By layer."""
        moved: Tensor = self.table
        if len(self.mlp):
            moved = torch.tanh(moved @ self.mlp[0].T) @ self.mlp[1].T
        shaped = (self.start + moved).view(self.config.length, 2 * self.layers, *self.kv_shape)
        found: dict[int, dict[str, Tensor]] = {}
        for i in range(self.layers):
            found[i] = {"keys": shaped[:, 2 * i], "values": shaped[:, 2 * i + 1]}
            if len(self.gates):
                names = ("gate.weight", "gate.bias")
                found[i] |= {name: self.gates[parameter_key(layer_site(i), name)] for name in names}
        return found

    def bound(self) -> BoundComponent:
        rows = {layer: _rows(leaves) for layer, leaves in self._leaves().items()}
        return _bound(rows, self.config, gated=len(self.gates) > 0)

    def component(self) -> Component[PrefixConfig]:
        sites = {
            layer_site(i): {name: tensor.detach().cpu().contiguous() for name, tensor in leaves.items()}
            for i, leaves in self._leaves().items()
        }
        return Component(Prefix.name, self.config, sites)


@torch.no_grad()
def _activations(backbone: Backbone, length: int, generator: torch.Generator) -> Tensor:
    """Keys and values of random words, (length, 2 * layers * kv_heads * head_dim)."""
    words = backbone.embedding[backbone.family.word_embeddings].module.num_embeddings
    ids = torch.randint(words, (length,), generator=generator).tolist()
    found: dict[int, Tensor] = {}

    def catch(layer: int) -> KeyValueActor:
        def act(keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            found[layer] = torch.stack([keys, values], dim=1).float()
            return keys, values

        return act

    batch = pack(backbone, [ids], [[0] * length])
    backbone.encode(batch, Actors(key_value={layer: catch(layer) for layer in range(backbone.layers)}))
    return torch.cat([found[layer] for layer in range(backbone.layers)], dim=1).flatten(1).clone()

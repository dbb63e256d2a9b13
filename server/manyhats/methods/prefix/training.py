"""Trains a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.backbone.packing import pack
from manyhats.backbone.sites import Actors, KeyValueActor
from manyhats.methods.base import BoundComponent, Trainable, init_gate, init_parameter, parameter_key
from manyhats.methods.component import Component
from manyhats.methods.prefix.config import NAME, PrefixConfig, layer_site
from manyhats.methods.prefix.operation import bind_rows, rows_of

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TrainablePrefix(Trainable):
    """Trained through an MLP, which is dropped at saving: the paper found the bare parameters unstable (section 4.3).

    Initialised with the backbone's keys and values of real words, as the paper advises for little data (section 7.4).
    `inner`: the MLP's width; 0 trains the keys and values themselves.
    """

    def __init__(self, backbone: Backbone, length: int, inner: int, generator: torch.Generator, *, gated: bool) -> None:
        super().__init__()
        self.config = PrefixConfig(length=length)
        self.layers = backbone.layers
        self.kv_shape = backbone.kv_shape
        self.start: Tensor
        self.register_buffer("start", _word_activations(backbone, length, generator))
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
        rows = {layer: rows_of(leaves) for layer, leaves in self._leaves().items()}
        return bind_rows(rows, self.config, gated=len(self.gates) > 0)

    def component(self) -> Component[PrefixConfig]:
        sites = {
            layer_site(i): {name: tensor.detach().cpu().contiguous() for name, tensor in leaves.items()}
            for i, leaves in self._leaves().items()
        }
        return Component(NAME, self.config, sites)


@torch.no_grad()
def _word_activations(backbone: Backbone, length: int, generator: torch.Generator) -> Tensor:
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

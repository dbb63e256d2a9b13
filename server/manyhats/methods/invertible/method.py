"""Invertible adapters as a method; see the package's docstring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhats.backbone.sites import EMBEDDED
from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.methods.base import (
    BoundComponent,
    Conflict,
    Method,
    SequenceSlices,
    Trainable,
    expect_leaves,
    expect_shape,
    in_dtype,
    init_parameter,
    parameter_key,
    reject_padded,
)
from manyhats.methods.component import Component, StateDict, size_of
from manyhats.methods.invertible.config import NAME, InvertibleConfig
from manyhats.methods.options import Options
from manyhats.methods.recipe import Member, Recipe, Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch

_LEAVES = [f"{net}.{layer}.{kind}" for net in "FG" for layer in ("down", "up") for kind in ("weight", "bias")]


@dataclass(frozen=True, slots=True)
class _Coupling:
    leaves: StateDict
    config: InvertibleConfig

    def _net(self, name: str, x: Tensor) -> Tensor:
        inner = F.linear(x, self.leaves[f"{name}.down.weight"], self.leaves[f"{name}.down.bias"])
        outer = activation(self.config.non_linearity)(inner)
        return F.linear(outer, self.leaves[f"{name}.up.weight"], self.leaves[f"{name}.up.bias"])

    def __call__(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        first, second = states.chunk(2, dim=-1)
        first = first + self._net("F", second)
        return torch.cat([first, second + self._net("G", first)], dim=-1)


class Invertible(Method[InvertibleConfig]):
    """Tensors at the site `embedded`: `F.down`, `F.up`, `G.down`, `G.up`, each with `.weight` and `.bias`."""

    name: ClassVar[str] = NAME
    config = InvertibleConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "invertible": Recipe(
            NAME,
            Schedule(2e-3),
            "Pfeiffer et al. 2020 (MAD-X)",
            additional=(Member("bottleneck", {"placement": "pfeiffer"}),),
        ),
    }
    lm_head_conflict = Conflict(
        "an invertible adapter is undone before the language-model head, which is not supported; it is for tasks "
        "without that head",
        "inv_adapter",
    )

    def check(self, component: Component[InvertibleConfig], backbone: Backbone) -> None:
        activation(component.config.non_linearity)
        reject_padded(backbone, "an invertible adapter")
        if set(component.tensors) != {EMBEDDED}:
            raise AdapterMismatch("an invertible adapter acts on the embeddings alone", param="inv_adapter")
        leaves = component.tensors[EMBEDDED]
        expect_leaves(leaves, _LEAVES, EMBEDDED)
        half = backbone.hidden // 2
        for net in "FG":
            width = leaves[f"{net}.down.weight"].shape[0]
            for name, shape in (
                ("down.weight", (width, half)),
                ("down.bias", (width,)),
                ("up.weight", (half, width)),
                ("up.bias", (half,)),
            ):
                expect_shape(leaves[f"{net}.{name}"], shape, f"{net}.{name}", backbone)

    def bind(self, component: Component[InvertibleConfig], backbone: Backbone) -> BoundComponent:
        ready = in_dtype(component.tensors[EMBEDDED], backbone)
        return BoundComponent(states={EMBEDDED: _Coupling(ready, component.config)}, nbytes=size_of([ready]))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        width = chosen.integer("width", max(backbone.hidden // 4, 1), minimum=1)
        non_linearity = chosen.choice("non_linearity", "relu", ("relu", "gelu", "tanh", "swish"))
        chosen.reject_unknown()
        reject_padded(backbone, "an invertible adapter")
        return _TrainableInvertible(backbone, width, InvertibleConfig(non_linearity=non_linearity), generator)


class _TrainableInvertible(Trainable):
    def __init__(self, backbone: Backbone, width: int, config: InvertibleConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.leaves = nn.ParameterDict()
        half = backbone.hidden // 2
        for name in _LEAVES:
            rows, columns = (width, half) if ".down." in name else (half, width)
            shape = (rows, columns) if name.endswith("weight") else (rows,)
            # near the identity, as a bottleneck adapter starts
            std = 0.0 if name.endswith("bias") else 1e-2 if ".down." in name else 1e-3
            self.leaves[parameter_key(EMBEDDED, name)] = init_parameter(backbone, shape, std, generator)

    def _named(self) -> dict[str, Tensor]:
        return {name: self.leaves[parameter_key(EMBEDDED, name)] for name in _LEAVES}

    def bound(self) -> BoundComponent:
        return BoundComponent(states={EMBEDDED: _Coupling(self._named(), self.config)})

    def component(self) -> Component[InvertibleConfig]:
        leaves = {name: tensor.detach().cpu() for name, tensor in self._named().items()}
        return Component(NAME, self.config, {EMBEDDED: leaves})

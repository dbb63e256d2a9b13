"""Prefix-tuning as a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.errors import AdapterMismatch
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_shape,
    in_dtype,
    reject_padded,
)
from manyhats.methods.component import Component
from manyhats.methods.options import Options
from manyhats.methods.prefix.adapterhub import ADAPTERHUB
from manyhats.methods.prefix.config import NAME, PrefixConfig, layer_site
from manyhats.methods.prefix.operation import GatedRows, NoRows, bind_rows, rows_of
from manyhats.methods.prefix.peft import PEFT_WRITER, PREFIX_TUNING
from manyhats.methods.prefix.training import TrainablePrefix
from manyhats.methods.recipe import Recipe, Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Prefix(Method[PrefixConfig]):
    """Tensors at the `key_value` of every layer that is not left out: `keys` and `values`, (length, kv_heads,
    head_dim); where the prefix is gated `gate.weight` (1, width) and `gate.bias` (1,)."""

    name: ClassVar[str] = NAME
    size_option: ClassVar[str] = "length"
    config = PrefixConfig
    peft_types = (PREFIX_TUNING,)
    peft_writer = PEFT_WRITER
    adapterhub = ADAPTERHUB
    # Needs many steps, so batches are small.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "prefix": Recipe(
            NAME,
            Schedule(3e-2, 1e-2, batch_tokens=256),
            "Li & Liang 2021",
            peft=True,
            variants={"reparametrisation": "prefix-mlp"},
        ),
        "prefix-mlp": Recipe(
            NAME, Schedule(1e-4, 1e-2, batch_tokens=256), "Li & Liang 2021", {"reparametrisation": 512}, peft=True
        ),
    }

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
            layer: rows_of(in_dtype(component.tensors[layer_site(layer)], backbone))
            for layer in range(backbone.layers)
            if layer not in left_out
        }
        gated = any(isinstance(one, GatedRows) for one in rows.values())
        if left_out:
            empty = torch.zeros_like(next(iter(rows.values())).keys)
            rows |= dict.fromkeys(left_out, NoRows(empty, gated))
        return bind_rows(rows, component.config, self.slot_size(component, backbone), gated=gated)

    def rank(self, component: Component[PrefixConfig]) -> int | None:
        return component.config.length

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        length = chosen.integer("length", 16, minimum=1)
        inner = chosen.integer("reparametrisation", 0, minimum=0)
        gated = chosen.flag("gated")
        chosen.reject_unknown()
        reject_padded(backbone, "a prefix")
        return TrainablePrefix(backbone, length, inner, generator, gated=gated)

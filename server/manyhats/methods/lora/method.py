"""LoRA: a low-rank update of a linear layer (Hu et al. 2021, section 4.1).

y = W x + b + s B A x        A: (r, in), B: (out, r), s = alpha / r  (rsLoRA: alpha / sqrt(r))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import LowRank, Weight
from manyhats.methods.base import (
    BoundComponent,
    EmbeddingStep,
    Method,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
)
from manyhats.methods.component import Component, StateDict
from manyhats.methods.lora.adapterhub import ADAPTERHUB
from manyhats.methods.lora.config import NAME, LoraConfig
from manyhats.methods.lora.operations import (
    LowRankLookup,
    dora_gain,
    embedding_gain,
    low_rank_operations,
    output_offset,
    small_pairs,
)
from manyhats.methods.lora.peft import ADALORA, LORA
from manyhats.methods.lora.peft_vera import VERA
from manyhats.methods.lora.peft_writer import WRITER
from manyhats.methods.lora.training import TrainableLora, TrainableVera
from manyhats.methods.lora.vera import SharedMatrices, make_matrices, materialise
from manyhats.methods.operations import AddLowRank, Operation, bytes_of
from manyhats.methods.options import Options
from manyhats.methods.recipe import Recipe, Schedule
from manyhats.methods.sites import linear_site
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Lora(Method[LoraConfig]):
    """Tensors at a linear site: `A` (r, in), `B` (out, r); `magnitude` (out,) of DoRA, `bias` (out,) in place of the
    backbone's, `bias_B` (out,) of B itself, `gate.weight` (1, in) and `gate.bias` (1,). At an embedding: `A`
    (r, vocabulary), `B` (dim, r), `magnitude` (dim,). Of VeRA `lambda_b` (out,) and `lambda_d` (r,) alone."""

    name: ClassVar[str] = NAME
    size_option: ClassVar[str] = "rank"
    config = LoraConfig
    tied_to_lm_head_ok = False
    peft_types = (LORA, ADALORA, VERA)
    peft_writer = WRITER
    adapterhub = ADAPTERHUB
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "lora": Recipe(NAME, Schedule(1e-3), "Hu et al. 2021", peft=True),
        "rslora": Recipe(NAME, Schedule(5e-4), "Kalajdzievski 2023", {"variant": "rslora"}, peft=True),
        "dora": Recipe(NAME, Schedule(1e-3), "Liu et al. 2024", {"variant": "dora"}, peft=True),
        "vera": Recipe(NAME, Schedule(3e-2, weight_decay=0.0), "Kopiczko et al. 2024", {"variant": "vera"}, peft=True),
    }

    def check(self, component: Component[LoraConfig], backbone: Backbone) -> None:
        unscaled = [site for site in component.tensors if site not in component.config.scales]
        if unscaled:
            raise AdapterMismatch(f"the config has no scale for the LoRA at {unscaled[0]}", param="scales")
        if component.config.vera is not None:
            _check_vera(component, component.config.vera, backbone)
            return
        for site, leaves in component.tensors.items():
            expect_leaves(leaves, ("A", "B"), site)
            table = backbone.embedding.get(backbone.bare_name(site))
            shapes: dict[str, tuple[int, ...]] = {}
            if table is not None:
                out, width = table.module.embedding_dim, table.module.num_embeddings
            else:
                out, width = linear_site(backbone, site).shape
                shapes |= {"bias": (out,), "bias_B": (out,), "gate.weight": (1, width), "gate.bias": (1,)}
            shapes["magnitude"] = (out,)
            rank = expect_matrix(leaves["A"], f"{site}.lora_A")
            expect_shape(leaves["A"], (rank, width), f"{site}.lora_A", backbone)
            expect_shape(leaves["B"], (out, rank), f"{site}.lora_B", backbone)
            for leaf, tensor in leaves.items():
                if leaf in ("A", "B"):
                    continue
                if leaf not in shapes:
                    raise AdapterMismatch(f"a LoRA has no place for '{leaf}' at {site}", param=leaf)
                expect_shape(tensor, shapes[leaf], f"{site}.{leaf}", backbone)
            if ("gate.weight" in leaves) != ("gate.bias" in leaves):
                raise AdapterMismatch(f"the gate at {site} needs a weight and a bias", param=site)
            if ("magnitude" in leaves) != (component.config.dora is not None):
                raise AdapterMismatch(f"DoRA's magnitudes and the config do not agree at {site}", param=site)

    def bind(self, component: Component[LoraConfig], backbone: Backbone) -> BoundComponent:
        linear: dict[str, list[Operation]] = {}
        embedding: dict[str, EmbeddingStep] = {}
        nbytes = 0
        vera = component.config.vera is not None
        small = {} if vera else small_pairs(component.tensors, component.config.scales, backbone.dtype)
        for site, given in _as_low_rank(component, backbone):
            table = backbone.embedding.get(backbone.bare_name(site))
            if table is None and site in small:
                linear[backbone.site_of(site).name] = [AddLowRank(small[site])]
                nbytes += small[site].down.nbytes + small[site].up.nbytes
                continue
            leaves = {leaf: tensor.float() for leaf, tensor in given.items()}
            scale = component.config.scales[site]

            def ready(tensor: Tensor) -> Tensor:
                return tensor.to(backbone.dtype).contiguous()

            if table is not None:
                gain = embedding_gain(leaves, table.module.weight.float(), scale)
                look_up = LowRankLookup(
                    ready(leaves["A"].T), ready(leaves["B"].T * scale), None if gain is None else ready(gain)
                )
                embedding[table.name] = look_up
                nbytes += look_up.down.nbytes + look_up.up.nbytes
                continue
            layer = backbone.site_of(site)
            gain = dora_gain(leaves, layer.weight, scale, component.config.dora)
            offset = output_offset(leaves, layer.bias, scale, gain, component.config.dora)
            up = leaves["B"].T * scale
            pair = LowRank(ready(leaves["A"]), ready(up if gain is None else up * gain))
            gate = Weight(ready(leaves["gate.weight"]), ready(leaves["gate.bias"])) if "gate.weight" in leaves else None
            linear[layer.name] = low_rank_operations(
                pair, None if gain is None else ready(gain), None if offset is None else ready(offset), gate
            )
            nbytes += sum(bytes_of(operation) for operation in linear[layer.name])
        return BoundComponent(linear=linear, embedding=embedding, nbytes=nbytes)

    def reads_weights(self, component: Component[LoraConfig], backbone: Backbone) -> bool:
        return any("magnitude" in leaves or "bias" in leaves for leaves in component.tensors.values())

    def rank(self, component: Component[LoraConfig]) -> int | None:
        if component.config.vera is not None:
            return component.config.vera.rank
        return max(leaves["A"].shape[0] for leaves in component.tensors.values())

    def slot_size(self, component: Component[LoraConfig], backbone: Backbone) -> int:
        if component.config.vera is None:
            return component.nbytes
        sizes = (sum(backbone.site_of(site).shape) for site in component.tensors)
        return sum(sizes) * component.config.vera.rank * backbone.dtype.itemsize

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        variant = chosen.choice("variant", "lora", ("lora", "rslora", "dora", "vera"))
        rank = chosen.integer("rank", 256 if variant == "vera" else 8, minimum=1)
        targets = chosen.names("targets", ["all-linear"])
        if variant == "vera":
            key = chosen.integer("key", 0)
            chosen.reject_unknown()
            return TrainableVera(backbone, target_sites(backbone, targets), rank, key)
        alpha = chosen.number("alpha", 2.0 * rank)
        gated = chosen.flag("gated")
        chosen.reject_unknown()
        scale = alpha / math.sqrt(rank) if variant == "rslora" else alpha / rank
        made = TrainableLora(backbone, target_sites(backbone, targets), rank, scale, variant == "dora", generator)
        if gated:
            made.add_gates(backbone, generator)
        return made


def _check_vera(component: Component[LoraConfig], shared: SharedMatrices, backbone: Backbone) -> None:
    for site, leaves in component.tensors.items():
        expect_leaves(leaves, ("lambda_b", "lambda_d"), site)
        out, width = linear_site(backbone, site).shape
        expect_shape(leaves["lambda_b"], (out,), f"{site}.lambda_b", backbone)
        expect_shape(leaves["lambda_d"], (shared.rank,), f"{site}.lambda_d", backbone)
        if out > shared.outputs or width > shared.inputs:
            raise AdapterMismatch(
                f"VeRA's matrices are made for layers of at most {shared.inputs} inputs and {shared.outputs} outputs, "
                f"but {site} has {width} and {out}",
                param=site,
            )


def _as_low_rank(component: Component[LoraConfig], backbone: Backbone) -> Iterator[tuple[str, StateDict]]:
    """The tensors by site, VeRA's as `A` and `B`."""
    if component.config.vera is None:
        yield from component.tensors.items()
        return
    down, up = make_matrices(component.config.vera)
    for site, leaves in component.tensors.items():
        width = backbone.site_of(site).shape[1]
        yield site, materialise(leaves["lambda_b"].float(), leaves["lambda_d"].float(), down, up, width)

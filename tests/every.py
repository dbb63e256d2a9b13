"""One random adapter of every method that a backbone can wear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.backbone.sites import EMBEDDED
from manyhats.core.adapter import Adapter
from manyhats.methods.average import AverageConfig
from manyhats.methods.bottleneck.members import member_leaf
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.fusion import FusionConfig
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.invertible import InvertibleConfig
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig
from manyhats.methods.registry import METHODS
from manyhats.methods.side import SIDE_SITE, Side, SideConfig
from manyhats.methods.side.network import build_network, needed_parameters
from manyhats.methods.sparse import SparseConfig
from manyhats.methods.token_rows import TokenRowsConfig
from torch import Tensor

from tests import tiny


def parts(backbone: Backbone, seed: int = 1, std: float = 0.2) -> dict[str, Component]:
    """By method; those that the family does not take are left out. `std`: of the random weights."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    hidden = backbone.hidden
    words = backbone.family.word_embeddings
    table = backbone.embedding[words].module
    linear = {name: site.shape for name, site in backbone.linear.items() if name != "lm_head"}
    norms = {name: site.module for name, site in backbone.norm.items()}
    made = {method: tiny.component(backbone, method, seed, std) for method in ("lora", "mask")}
    made["ia3"] = Component(
        "ia3",
        Ia3Config(),
        {name: {"output": 1 + fresh(out), "input": 1 + fresh(width)} for name, (out, width) in linear.items()},
    )
    made["parameters"] = Component(
        "parameters",
        ParametersConfig(),
        {
            name: {n: p.cpu() + fresh(*p.shape) for n, p in module._parameters.items() if p is not None}
            for name, module in norms.items()
        }
        | {name: {"bias": fresh(out)} for name, (out, _) in list(linear.items())[:3]},
    )
    name, (out, width) = next(iter(linear.items()))
    made["sparse"] = Component(
        "sparse",
        SparseConfig(),
        {
            name: {"weight.indices": torch.arange(0, out * width, 61), "weight.values": fresh(-(-out * width // 61))},
            words: {"weight.indices": torch.arange(5, 900, 13), "weight.values": fresh(-(-895 // 13))},
        },
    )
    made["token_rows"] = Component(
        "token_rows",
        TokenRowsConfig(),
        {words: {"ids": torch.tensor([30, 9, 41]), "rows": fresh(3, table.embedding_dim)}},
    )
    if backbone.residual:
        made["bottleneck"] = tiny.component(backbone, "bottleneck", seed, std, original_ln_before=True)
        members = [tiny.component(backbone, "bottleneck", seed + i, std) for i in (1, 2)]
        configs = tuple(m.config for m in members)
        joined: dict[str, dict[str, Tensor]] = {
            site: {member_leaf(i, leaf): t for i, m in enumerate(members) for leaf, t in m.tensors[site].items()}
            for site in members[0].tensors
        }
        made["average"] = Component("average", AverageConfig(members=configs, weights=(0.3, 0.7)), joined)  # type: ignore[arg-type]
        layers = ("query.weight", "key.weight", "value.weight")
        made["fusion"] = Component(
            "fusion",
            FusionConfig(members=configs),  # type: ignore[arg-type]
            {
                site: leaves
                | {n: fresh(hidden, hidden) for n in layers}
                | {"query.bias": fresh(hidden), "key.bias": fresh(hidden)}
                for site, leaves in joined.items()
            },
        )
    if not backbone.family.packed:
        return made
    made["prefix"] = tiny.component(backbone, "prefix", seed, std)
    made["prompt"] = Component("prompt", PromptConfig(), {PROMPT_SITE: {"prompt": fresh(4, table.embedding_dim)}})
    half = hidden // 2
    made["invertible"] = Component(
        "invertible",
        InvertibleConfig(),
        {
            EMBEDDED: {
                f"{net}.{n}": fresh(*shape)
                for net in "FG"
                for n, shape in (
                    ("down.weight", (4, half)),
                    ("down.bias", (4,)),
                    ("up.weight", (half, 4)),
                    ("up.bias", (half,)),
                )
            }
        },
    )
    config = SideConfig(kind="layers", layers=1)
    with torch.device("meta"):
        needed = needed_parameters(build_network(config, backbone), config)
    network = {f"network.{n}": fresh(*shape) + (1 if n.endswith("orm.weight") else 0) for n, shape in needed.items()}
    made["side"] = Component(Side.name, config, {SIDE_SITE: {"alpha": torch.tensor([0.2])} | network})
    return made


def adapters(backbone: Backbone, seed: int = 1, std: float = 0.2) -> dict[str, Adapter]:
    """One of each method, without a head, and two of several methods. `std`: of the random weights."""
    plain = tiny.adapter(backbone, "lora", seed)
    own = parts(backbone, seed, std)
    made = {name: replace(plain, components=(part,)) for name, part in own.items()}
    if "prefix" in own and "bottleneck" in own:
        made["stack"] = replace(plain, components=(own["prefix"], own["bottleneck"], own["lora"]))
    made["lora+ia3"] = replace(plain, components=(own["lora"], own["ia3"]))
    for adapter in made.values():
        adapter.check(backbone)
    return made


def nothing(backbone: Backbone) -> dict[str, Adapter]:
    """Adapters that change nothing: zeros, ones and the backbone's own values."""
    plain = tiny.adapter(backbone, "lora", 1)
    changed: dict[str, Any] = {}
    for name, part in parts(backbone).items():
        match name:
            case "lora" | "sparse":
                leaf = {"lora": "B", "sparse": "weight.values"}[name]
                changed[name] = {
                    site: dict(leaves) | {leaf: torch.zeros_like(leaves[leaf])} for site, leaves in part.tensors.items()
                }
            case "ia3":
                changed[name] = {
                    s: {n: torch.ones_like(t) for n, t in leaves.items()} for s, leaves in part.tensors.items()
                }
            case "invertible":
                changed[name] = {
                    s: {n: torch.zeros_like(t) for n, t in leaves.items()} for s, leaves in part.tensors.items()
                }
            case "mask":
                changed[name] = {
                    s: {"mask": torch.full_like(leaves["mask"], 255)} for s, leaves in part.tensors.items()
                }
            case "token_rows":
                changed[name] = {
                    s: {"ids": leaves["ids"], "rows": backbone.embedding[s].module.weight.cpu()[leaves["ids"]].clone()}
                    for s, leaves in part.tensors.items()
                }
            case "parameters":
                changed[name] = {
                    s: {n: backbone.norm[s].module._parameters[n].cpu().clone() for n in leaves}  # type: ignore[union-attr]
                    for s, leaves in part.tensors.items()
                    if s in backbone.norm
                }
            case _:
                continue
    own = parts(backbone)
    made = {
        name: replace(plain, components=(replace(own[name], tensors=tensors),)) for name, tensors in changed.items()
    }
    if backbone.residual:
        zeros = tiny.component(backbone, "bottleneck", 1)
        tensors = {s: {n: torch.zeros_like(t) for n, t in leaves.items()} for s, leaves in zeros.tensors.items()}
        made["bottleneck"] = replace(plain, components=(replace(zeros, tensors=tensors),))
    return made


ALL = tuple(METHODS)

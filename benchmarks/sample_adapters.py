"""Adapters of usual sizes with random weights, for measuring: of all methods, and PEFT's files of many LoRA tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.bottleneck.members import member_leaf
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.fusion import FusionConfig
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.lora import LoraConfig
from manyhats.methods.mask import MaskConfig, pack_bits
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.prompt import PROMPT_SITE, PromptConfig
from manyhats.methods.side import SIDE_SITE, SideConfig
from manyhats.methods.sparse import SparseConfig
from manyhats.methods.targets import target_sites

RANK = 8
LABELS = 3
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def lora(backbone: Backbone) -> Component[Any]:
    """Rank 8 on all linear layers of the blocks."""
    linear = {site: backbone.linear[site].shape for site in target_sites(backbone, ["all-linear"])}
    tensors = {
        site: {"A": torch.randn(RANK, w) * 0.05, "B": torch.randn(o, RANK) * 0.05} for site, (o, w) in linear.items()
    }
    return Component("lora", LoraConfig(scales=dict.fromkeys(linear, 2.0)), tensors)


def mask(backbone: Backbone) -> Component[Any]:
    """Masks over all linear layers of the blocks, which leave out one weight in twenty."""
    linear = {site: backbone.linear[site].shape for site in target_sites(backbone, ["all-linear"])}
    masks = {site: {"mask": pack_bits(torch.rand(shape) > 0.05)} for site, shape in linear.items()}
    return Component("mask", MaskConfig(shapes=linear), masks)


def bottleneck(backbone: Backbone, width: int, **flags: object) -> Component[Any]:
    """Small random weights after every feed-forward, or after both sub-layers (Houlsby)."""
    hidden = backbone.hidden
    sites = [s for s in backbone.residual if not flags or s.endswith(".ffn")]
    leaves = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
    tensors = {site: {name: torch.randn(shape) * 0.02 for name, shape in leaves.items()} for site in sites}
    return Component("bottleneck", BottleneckConfig(**flags), tensors)  # type: ignore[arg-type]


def twelve_methods(backbone: Backbone, seed: int) -> dict[str, list[Component[Any]]]:
    """Adapters by the name of the method."""
    torch.manual_seed(seed)
    hidden = backbone.hidden
    linear = {site: backbone.linear[site].shape for site in target_sites(backbone, ["all-linear"])}
    plain = bottleneck(backbone, 24, original_ln_before=True)
    fused: dict[str, dict[str, torch.Tensor]] = {}
    for i in range(3):
        for site, leaves in plain.tensors.items():
            fused.setdefault(site, {}).update(
                {member_leaf(i, n): torch.randn_like(t) * 0.02 for n, t in leaves.items()}
            )
    for leaves in fused.values():
        leaves |= {f"{name}.weight": torch.randn(hidden, hidden) * 0.02 for name in ("query", "key", "value")}
        leaves |= {f"{name}.bias": torch.zeros(hidden) for name in ("query", "key")}
    rows = {
        layer_site(i): {n: torch.randn(16, *backbone.kv_shape) * 0.2 for n in ("keys", "values")}
        for i in range(backbone.layers)
    }
    prefix = Component("prefix", PrefixConfig(length=16), rows)
    changes = {
        site: {"weight.indices": torch.arange(0, o * w, 200), "weight.values": torch.randn(-(-o * w // 200)) * 0.05}
        for site, (o, w) in linear.items()
    }
    biases = {site: {"bias": torch.randn(o) * 0.05} for site, (o, _) in linear.items()}
    vectors = {site: {"output": 1 + torch.randn(o) * 0.1} for site, (o, _) in linear.items()}
    block = {
        f"network.{n}": t.detach().float().clone()
        for n, t in backbone.model.state_dict().items()
        if n.startswith("encoder.layer.0.")
    }
    return {
        "lora": [lora(backbone)],
        "bottleneck (Houlsby)": [bottleneck(backbone, 24)],
        "bottleneck (Pfeiffer)": [plain],
        "fusion of 3": [Component("fusion", FusionConfig(members=(plain.config,) * 3), fused)],  # type: ignore[arg-type]
        "prefix": [prefix],
        "prompt": [Component("prompt", PromptConfig(), {PROMPT_SITE: {"prompt": torch.randn(16, hidden) * 0.05}})],
        "ia3": [Component("ia3", Ia3Config(), vectors)],
        "biases": [Component("parameters", ParametersConfig(), biases)],
        "sparse": [Component("sparse", SparseConfig(), changes)],
        "mask": [mask(backbone)],
        "side, one block": [
            Component("side", SideConfig(kind="layers", layers=1), {SIDE_SITE: {"alpha": torch.tensor([1.0])} | block})
        ],
        "prefix + parallel (MAM)": [prefix, bottleneck(backbone, 48, is_parallel=True, scaling=4.0)],
    }


def bind(backbone: Backbone, name: str, made: list[Component[Any]]) -> BoundAdapter:
    """Ready to act, without a head."""
    adapter = Adapter(tuple(made), head=None, kind="embed", matched_tensors=1)
    adapter.check(backbone)
    bound = adapter.bind(backbone)
    bound.method = name
    return bound


def write_lora_tasks(folder: Path, count: int, *, layers: int = 6, hidden: int = 384, inner: int = 1536) -> list[Path]:
    """Classifiers as PEFT saves them for a BERT of this shape, with weights large enough to tell them apart."""
    config = {
        "peft_type": "LORA", "task_type": "SEQ_CLS", "r": RANK, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
        "target_modules": TARGETS, "modules_to_save": ["classifier"], "inference_mode": True,
    }  # fmt: skip
    paths = []
    for i in range(count):
        path = folder / f"task-{i:04d}"
        path.mkdir(parents=True)
        tensors = lora_tensors(i, layers=layers, hidden=hidden, inner=inner)
        safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        paths.append(path)
    return paths


def lora_tensors(
    seed: int,
    *,
    rank: int = RANK,
    targets: Sequence[str] = TARGETS,
    layers: int = 6,
    hidden: int = 384,
    inner: int = 1536,
) -> dict[str, torch.Tensor]:
    """The tensors of such a classifier, by the names that PEFT gives them."""
    shapes = dict.fromkeys(TARGETS[:4], (hidden, hidden)) | {TARGETS[4]: (inner, hidden), TARGETS[5]: (hidden, inner)}
    generator = torch.Generator().manual_seed(seed)

    def fresh(*shape: int, std: float = 0.05) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * std

    tensors = {
        "base_model.model.classifier.weight": fresh(LABELS, hidden, std=1.0),
        "base_model.model.classifier.bias": fresh(LABELS, std=1.0),
    }
    for layer in range(layers):
        for target in targets:
            out, width = shapes[target]
            where = target if "attention" in target or "dense" in target else f"attention.self.{target}"
            name = f"base_model.model.bert.encoder.layer.{layer}.{where}"
            tensors |= {f"{name}.lora_A.weight": fresh(rank, width), f"{name}.lora_B.weight": fresh(out, rank)}
    return tensors

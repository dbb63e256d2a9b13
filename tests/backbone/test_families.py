"""Every family, packed or padded, computes what transformers' own model computes for each text alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.methods.base import Part
from manyhats.methods.bottleneck import BottleneckConfig
from torch import Tensor
from transformers import AutoModel

from tests import tiny

TEXTS = tiny.texts([1, 7, 30, 12, 45, 8], seed=3)
CLOSE = 2e-5


@torch.inference_mode()
def reference(folder: Path, backbone: Backbone, change: Callable[[Any], None] = lambda model: None) -> list[Tensor]:
    """Last hidden states of the model itself, every text alone."""
    model = AutoModel.from_pretrained(folder, attn_implementation=None).eval()
    change(model)
    out = []
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        out.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, : ids.shape[1]])
    return out


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_equals_the_model_itself(family: str, base_folder: Any, load_backbone: Any) -> None:
    backbone = load_backbone(family)
    expected = reference(base_folder(family), backbone)
    assert tiny.difference(tiny.ask(backbone, None, TEXTS), expected) < CLOSE
    assert tiny.difference(tiny.alone(backbone, None, TEXTS), expected) < CLOSE


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_lora_on_every_linear_layer_equals_merged_weights(family: str, base_folder: Any, load_backbone: Any) -> None:
    backbone = load_backbone(family)
    adapter = tiny.adapter(backbone, "lora", 4)
    part = adapter.parts[0]

    def merge(model: Any) -> None:
        for site, leaves in part.tensors.items():
            if site == "lm_head" or site.startswith("pooler"):
                continue
            difference = part.config.scales[site] * leaves["B"] @ leaves["A"]  # type: ignore[attr-defined]
            weight = model.get_submodule(site).weight
            weight.data += difference.T if backbone.linear[site].transposed else difference

    expected = reference(base_folder(family), backbone, merge)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < 10 * CLOSE
    mixed = [tiny.bound(backbone, adapter), tiny.BARE, tiny.bound(backbone, tiny.adapter(backbone, "lora", 5))]
    rows = [tiny.row(backbone, mixed[i % 3], text) for i, text in enumerate(TEXTS * 3)]
    alone = [tiny.run(backbone, [row])[0] for row in rows]
    assert tiny.difference(tiny.run(backbone, rows), alone) < CLOSE


def _no_places(family: str) -> bool:
    return family == "gpt_neox"  # attention and feed-forward join at once


@pytest.mark.parametrize("family", [f for f in tiny.ALL_FAMILIES if not _no_places(f)])
@pytest.mark.parametrize("flags", [{}, {"is_parallel": True}, {"original_ln_before": True}])
def test_bottleneck_alone_and_mixed(family: str, flags: dict[str, Any], load_backbone: Any) -> None:
    """An adapter of zeros is the backbone; another is not, and gives alone what it gives among others."""
    backbone = load_backbone(family)
    adapter = tiny.adapter(backbone, "bottleneck", 6, **flags)
    part = adapter.parts[0]
    nothing = Part(
        part.method,
        BottleneckConfig(**flags),
        {site: {n: torch.zeros_like(t) for n, t in leaves.items()} for site, leaves in part.tensors.items()},
    )
    bare = tiny.ask(backbone, None, TEXTS)
    if not (flags.get("original_ln_before") and backbone.family.post_norm):
        zeros = copy.replace(adapter, parts=(nothing,)) if hasattr(copy, "replace") else _replace(adapter, nothing)
        assert tiny.difference(tiny.ask(backbone, zeros, TEXTS), bare) < CLOSE
    own = tiny.alone(backbone, adapter, TEXTS)
    assert tiny.difference(own, bare) > 1e-2
    worn = tiny.bound(backbone, adapter)
    rows = [tiny.row(backbone, worn if i % 2 else tiny.BARE, text) for i, text in enumerate(TEXTS)]
    expected = [own[i] if i % 2 else bare[i] for i in range(len(TEXTS))]
    assert tiny.difference(tiny.run(backbone, rows), expected) < CLOSE


def _replace(adapter: Any, part: Part) -> Any:
    from dataclasses import replace

    return replace(adapter, parts=(part,))


def test_parallel_residuals_have_no_place_for_bottlenecks(load_backbone: Any) -> None:
    assert not load_backbone("gpt_neox").residual


def test_reformer_reads_long_inputs(tmp_path: Path) -> None:
    """An input of 4,096 tokens, with LoRA and a bottleneck adapter, in one batch with short ones."""
    config = tiny.config("reformer")
    config.max_position_embeddings = 4096
    config.axial_pos_shape = [64, 64]
    config.lsh_attn_chunk_length = config.local_attn_chunk_length = 64
    model = AutoModel.from_config(config)
    tiny.randomise(model, 1)
    model.save_pretrained(tmp_path)
    tiny.tokenizer("reformer").save_pretrained(tmp_path)
    backbone = tiny.load(tmp_path)
    assert backbone.max_tokens == 4096
    long, short = tiny.words(4094, 1), tiny.words(20, 2)
    for method in ("lora", "bottleneck"):
        worn = tiny.bound(backbone, tiny.adapter(backbone, method, 3))
        rows = [tiny.row(backbone, worn, text) for text in (long, short)]
        assert len(rows[0].ids) == 4096
        together = tiny.run(backbone, rows)
        assert together[0].shape == (4096, 64)
        assert tiny.difference(together, [tiny.run(backbone, [row])[0] for row in rows]) < CLOSE

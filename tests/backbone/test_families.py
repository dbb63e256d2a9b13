"""Every family, packed or padded, computes what transformers' own model computes for each text alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.component import Component
from manyhats.methods.full_parameters import ParametersConfig
from manyhats.methods.lora import LoraConfig
from manyhats.methods.registry import METHODS
from torch import Tensor
from transformers import AutoModel

from tests import tiny
from tests.families import one_of_each

TEXTS = tiny.texts([1, 7, 30, 12, 45, 8], seed=3)
CLOSE = 1e-5


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


@pytest.mark.parametrize("family", one_of_each())
def test_lora_on_every_linear_layer_equals_merged_weights(family: str, base_folder: Any, load_backbone: Any) -> None:
    backbone = load_backbone(family)
    adapter = tiny.adapter(backbone, "lora", 4)
    part = adapter.components[0]

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


# In GPT-NeoX attention and feed-forward join at once.
WITH_PLACES = [family for family in tiny.ALL_FAMILIES if family != "gpt_neox"]

# The modules whose outputs are what attention and feed-forward add to the residual stream, within a block.
SUBLAYERS = {
    "albert": ("attention.output_dropout", "ffn_output"),
    "distilbert": ("attention", "ffn"),
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "modernbert": ("attn", "mlp"),
    "mpnet": ("attention.dropout", "output.dropout"),
    "opt": ("self_attn", "fc2"),
    "reformer": ("attention.output", "feed_forward"),
} | dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), ("self_attn", "mlp"))


@pytest.mark.parametrize("family", one_of_each(WITH_PLACES))
def test_bottleneck_at_every_place_equals_the_formula(family: str, base_folder: Any, load_backbone: Any) -> None:
    """f + s * (U tanh(D f + d) + u) in place of each sub-layer's output f."""
    backbone = load_backbone(family)
    adapter = tiny.adapter(backbone, "bottleneck", 8, non_linearity="tanh", scaling=0.7)
    tensors = adapter.components[0].tensors
    assert list(tensors) == [f"layers.{i}.{place}" for i in range(2) for place in ("attention", "ffn")]

    def adapted(f: Tensor, leaves: Any) -> Tensor:
        inner = torch.tanh(f @ leaves["down.weight"].T + leaves["down.bias"])
        return f + 0.7 * (inner @ leaves["up.weight"].T + leaves["up.bias"])

    def hook(names: list[str]) -> Callable[..., Any]:
        turns = itertools.cycle(names)  # a block that layers share comes by once for each

        def replace_output(module: Any, inputs: Any, output: Any) -> Any:
            leaves = tensors[next(turns)]
            return (adapted(output[0], leaves), *output[1:]) if isinstance(output, tuple) else adapted(output, leaves)

        return replace_output

    def insert(model: Any) -> None:
        places = SUBLAYERS.get(model.config.model_type, ("attention.output.dropout", "output.dropout"))
        names: dict[Any, list[str]] = {}
        for site in tensors:
            _, layer, place = site.split(".")
            path = backbone.family.block.format(i=backbone.family.block_of(model.config, int(layer)))
            module = model.get_submodule(f"{path}.{places[place == 'ffn']}")
            names.setdefault(module, []).append(site)
        for module, sites in names.items():
            module.register_forward_hook(hook(sites))

    expected = reference(base_folder(family), backbone, insert)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < CLOSE


@pytest.mark.parametrize("family", one_of_each(WITH_PLACES))
@pytest.mark.parametrize("flags", [{}, {"is_parallel": True}, {"original_ln_before": True}])
def test_bottleneck_alone_and_mixed(family: str, flags: dict[str, Any], load_backbone: Any) -> None:
    """An adapter of zeros is the backbone; another is not, and gives alone what it gives among others."""
    backbone = load_backbone(family)
    adapter = tiny.adapter(backbone, "bottleneck", 6, **flags)
    part = adapter.components[0]
    nothing = Component(
        part.method,
        BottleneckConfig(**flags),
        {site: {n: torch.zeros_like(t) for n, t in leaves.items()} for site, leaves in part.tensors.items()},
    )
    bare = tiny.ask(backbone, None, TEXTS)
    if not (flags.get("original_ln_before") and backbone.family.post_norm):
        zeros = copy.replace(adapter, components=(nothing,)) if hasattr(copy, "replace") else _replace(adapter, nothing)
        assert tiny.difference(tiny.ask(backbone, zeros, TEXTS), bare) < CLOSE
    own = tiny.alone(backbone, adapter, TEXTS)
    assert tiny.difference(own, bare) > 1e-2
    bound = tiny.bound(backbone, adapter)
    rows = [tiny.row(backbone, bound if i % 2 else tiny.BARE, text) for i, text in enumerate(TEXTS)]
    expected = [own[i] if i % 2 else bare[i] for i in range(len(TEXTS))]
    assert tiny.difference(tiny.run(backbone, rows), expected) < CLOSE


def _replace(adapter: Any, part: Component) -> Any:
    from dataclasses import replace

    return replace(adapter, components=(part,))


def test_parallel_residuals_have_no_place_for_bottlenecks(load_backbone: Any) -> None:
    backbone = load_backbone("gpt_neox")
    assert not backbone.residual
    with pytest.raises(AdapterMismatch, match="at once"):
        tiny.adapter(load_backbone("gpt_neox-sequential"), "bottleneck", 1).check(backbone)
    with pytest.raises(InvalidRequest, match="at once"):
        METHODS["bottleneck"].trainable(backbone, {}, torch.Generator())


# Tables of vectors that are looked up by position or by type, besides the words'.
TABLES = {
    "bert": ("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
    "roberta": ("embeddings.position_embeddings",),
    "distilbert": ("embeddings.position_embeddings",),
    "albert": ("embeddings.position_embeddings",),
    "gpt2": ("wpe",),
    "opt": ("decoder.embed_positions",),
    "opt-after": ("decoder.embed_positions",),
    "mpnet": ("embeddings.position_embeddings",),
}


@pytest.mark.parametrize("family", one_of_each())
def test_lora_on_embeddings_equals_merged_tables(family: str, base_folder: Any, load_backbone: Any) -> None:
    backbone = load_backbone(family)
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for site in (backbone.family.word_embeddings, *TABLES.get(family, ())):
        rows, width = backbone.embedding[site].module.weight.shape
        tensors[site] = {
            "A": torch.randn(3, rows, generator=generator) * 0.2,
            "B": torch.randn(width, 3, generator=generator) * 0.2,
        }
    part = Component("lora", LoraConfig(scales=dict.fromkeys(tensors, 0.5)), tensors)
    adapter = Adapter(components=(part,), head=None, kind="embed", matched_tensors=2 * len(tensors), settings={})
    adapter.check(backbone)

    def merge(model: Any) -> None:
        for site, leaves in tensors.items():
            model.get_submodule(site).weight.data += 0.5 * (leaves["B"] @ leaves["A"]).T

    expected = reference(base_folder(family), backbone, merge)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < CLOSE


def test_a_table_that_all_texts_read_as_one_is_refused(load_backbone: Any) -> None:
    backbone = load_backbone("mpnet")
    site = "encoder.relative_attention_bias"
    leaves = {"A": torch.zeros(2, 32), "B": torch.zeros(4, 2)}
    for method, config, tensors in (
        ("lora", LoraConfig(scales={site: 1.0}), leaves),
        ("parameters", ParametersConfig(), {"weight": torch.zeros(32, 4)}),
    ):
        with pytest.raises(AdapterMismatch, match="once for all texts"):
            METHODS[method].check(Component(method, config, {site: tensors}), backbone)

"""Families that attach as another does: the same function in truth, all methods in one batch, and what is their own.

The full product of methods is tried on the family that they attach as, and on them in the slow tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone, Text
from manyhats.backbone.families import FAMILIES
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.heads import Head, Layer
from manyhats.methods.libraries.adapterhub_modules import adapter_modules_of
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from tests import every, tiny
from tests.backbone.test_families import CLOSE, TEXTS, reference
from tests.families import ALIASES, ENCODERS

Change = Callable[[Any], None]


def _from_position_zero(model: Any) -> None:
    table = model.embeddings.position_embeddings.weight
    table.data = table.data.roll(model.config.pad_token_id + 1, 0)


def _without_bias_of_the_projection(model: Any) -> None:
    model.embeddings_project.bias.data.zero_()


def _without_window(model: Any) -> None:
    model.config.sliding_window = None
    for layer in model.layers:
        layer.self_attn.sliding_window = None


def _without_biases(model: Any) -> None:
    for layer in model.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.bias.data.zero_()


def _without_norms_of_heads(model: Any) -> None:
    for layer in model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()


# What an alias has of its own, taken out of transformers' model. ELECTRA's is its head alone: see below.
OWN: dict[str, Change] = {
    "roberta": _from_position_zero,
    "xlm-roberta": _from_position_zero,
    "electra-narrow": _without_bias_of_the_projection,
    "mistral": _without_window,
    "qwen2": _without_biases,
    "qwen3": _without_norms_of_heads,
}


@pytest.mark.parametrize("alias", ALIASES)
def test_attaches_by_the_same_function(alias: str, load_backbone: Any) -> None:
    types = [load_backbone(name).config.model_type for name in (alias, ALIASES[alias])]
    own, other = (FAMILIES[model_type] for model_type in types)
    assert own.attach is other.attach
    assert (own.block, own.attention) == (other.block, other.attention)
    assert adapter_modules_of(types[0]) == adapter_modules_of(types[1])


@pytest.mark.parametrize("alias", ALIASES)
def test_its_layers_have_the_names_of_its_checkpoints(alias: str, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(alias)
    for name, site in backbone.linear.items():
        if name in dict(backbone.model.named_modules()):
            assert backbone.site_of(f"{backbone.prefix}.{name}") is site
    assert list(backbone.residual) == [f"layers.{i}.{place}" for i in range(2) for place in ("attention", "ffn")]
    assert backbone.max_tokens == tiny.MAX_TOKENS


@pytest.mark.parametrize("alias", OWN)
def test_what_is_its_own_counts(alias: str, base_folder: Any, load_backbone: Any) -> None:
    """Without it transformers' model gives something else; with it, what the packed pass gives."""
    backbone = load_backbone(alias)
    packed = tiny.ask(backbone, None, TEXTS)
    assert tiny.difference(packed, reference(base_folder(alias), backbone)) < CLOSE
    assert tiny.difference(packed, reference(base_folder(alias), backbone, OWN[alias])) > 1e-2


@pytest.mark.parametrize("alias", ALIASES)
def test_all_methods_in_one_batch(alias: str, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(alias)
    bound = [BARE, *(adapter.bind(backbone) for adapter in every.adapters(backbone).values())]
    texts = TEXTS[:4]
    alone = [tiny.alone(backbone, one, texts) for one in bound]
    outputs = tiny.run(backbone, [tiny.row(backbone, one, text) for one in bound for text in texts])
    assert tiny.difference(outputs, [output for own in alone for output in own]) < tiny.CLOSE
    for own in alone[1:]:
        assert tiny.difference(own, alone[0]) > 1e-3


@pytest.mark.parametrize("alias", [alias for alias in ALIASES if alias in ENCODERS])
def test_pairs_of_texts(alias: str, base_folder: Any, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(alias)
    pairs = [Text(a, b) for a, b in zip(tiny.texts([4, 20, 1]), tiny.texts([7, 2, 30], seed=2), strict=True)]
    model = AutoModel.from_pretrained(base_folder(alias)).eval()
    for pair, states in zip(pairs, tiny.ask(backbone, None, pairs), strict=True):
        assert tiny.difference([states], [_own(model, backbone, pair).last_hidden_state[0]]) < CLOSE


@pytest.mark.parametrize("alias", ["roberta", "xlm-roberta", "electra", "electra-narrow"])
def test_its_head_is_transformers_own(alias: str, base_folder: Callable[[str], Path], load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(alias)
    model = AutoModelForSequenceClassification.from_pretrained(base_folder(alias), num_labels=3).eval()
    tiny.randomise(model.classifier, 5)
    layout = backbone.task_heads.classification
    assert layout is not None

    def logits(activation: str) -> list[torch.Tensor]:
        inner, last = (model.get_submodule(name) for name in layout.linears)
        layers = (Layer(inner.weight.data, inner.bias.data, activation), Layer(last.weight.data, last.bias.data))
        bound = BoundAdapter("base", (), Head("classify", layout.reads, layers))
        return tiny.ask(backbone, bound, TEXTS)

    expected = [_own(model, backbone, Text(text)).logits[0] for text in TEXTS]
    assert tiny.difference(logits(layout.activation), expected) < CLOSE
    assert tiny.difference(logits("relu"), expected) > 1e-2


@torch.inference_mode()
def _own(model: Any, backbone: Backbone, text: Text) -> Any:
    row = tiny.row(backbone, BARE, text)
    inputs = {"input_ids": torch.tensor([row.ids]), "attention_mask": torch.ones(1, len(row.ids), dtype=torch.long)}
    if getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.tensor([row.type_ids])
    return model(**inputs)

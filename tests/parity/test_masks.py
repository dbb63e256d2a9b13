"""Mask-tuning: the unmodified model with masked weights, computed densely."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.mask import MaskConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests import tiny

TEXTS = tiny.texts([4, 1, 33, 17], seed=3)


def _bits(packed: Tensor, count: int) -> list[int]:
    """The first `count` bits of a packed mask, least significant first."""
    return [(byte >> place) & 1 for byte in packed.tolist() for place in range(8)][:count]


@torch.inference_mode()
def dense(backbone: Backbone, adapter: Adapter, texts: list[str]) -> list[Tensor]:
    """transformers' task model with the mask multiplied into its weights and the head put in."""
    tokens = adapter.kind == "tokens"
    kind: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    assert adapter.head is not None
    model = kind.from_pretrained(backbone.name, num_labels=adapter.head.num_labels).eval()
    (part,) = adapter.components
    assert isinstance(part.config, MaskConfig)
    for site, leaves in part.tensors.items():
        if site.startswith("pooler.") and getattr(model.base_model, "pooler", None) is None:
            continue  # this task's model has none, and none is read
        weight = model.get_submodule(f"{backbone.prefix}.{site}").weight
        weight.mul_(torch.tensor(_bits(leaves["mask"], weight.numel())).view(weight.shape))
    names = ("classifier",) if tokens else backbone.task_heads.classification.linears
    for name, layer in zip(names, adapter.head.layers, strict=True):
        assert layer.bias is not None
        model.get_submodule(name).weight.copy_(layer.weight)
        model.get_submodule(name).bias.copy_(layer.bias)
    ids = [torch.tensor([tiny.row(backbone, tiny.BARE, text).ids]) for text in texts]
    return [model(input_ids=i).logits[0] for i in ids]


@pytest.mark.parametrize("kind", ["classify", "tokens"])
def test_equals_masked_weights(backbone: Backbone, kind: Any) -> None:
    everywhere = tiny.adapter(backbone, "mask", 1, kind=kind, labels=4, kept=0.7)
    assert tiny.difference(tiny.ask(backbone, everywhere, TEXTS), dense(backbone, everywhere, TEXTS)) < tiny.CLOSE


def test_many_masks_in_one_batch(backbone: Backbone) -> None:
    adapters = [
        tiny.adapter(backbone, "mask", 2, kind="classify", labels=2, kept=0.9),
        tiny.adapter(backbone, "mask", 3, kind="classify", labels=5, kept=0.0, only="layer.1"),
        tiny.adapter(backbone, "mask", 4, kind="tokens", labels=3, kept=0.5, only="layer.0"),
        tiny.adapter(backbone, "mask", 5, kind="regress", labels=1, kept=1.0),
    ]
    rows, expected = [], []
    for adapter in adapters:
        worn = tiny.bound(backbone, adapter)
        rows += [tiny.row(backbone, worn, text) for text in TEXTS]
        expected += dense(backbone, adapter, TEXTS)
    rows += [tiny.row(backbone, tiny.BARE, text) for text in TEXTS]
    expected += tiny.alone(backbone, None, TEXTS)
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    assert tiny.difference(tiny.run(backbone, [rows[i] for i in order]), [expected[i] for i in order]) < tiny.CLOSE

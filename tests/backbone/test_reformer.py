"""Reformer: long inputs, hashes that depend on nothing but the text, and gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.forward import forward
from manyhats.methods.registry import METHODS
from transformers import AutoModel

from tests import tiny

CLOSE = 1e-5
NO_DROPOUT = {f"{name}_dropout_prob": 0.0 for name in ("hidden", "lsh_attention_probs", "local_attention_probs")}


def make(folder: Path, **settings: Any) -> Backbone:
    """A tiny Reformer with some settings of its own."""
    config = tiny.config("reformer")
    for name, value in settings.items():
        setattr(config, name, value)
    model = AutoModel.from_config(config)
    tiny.randomise(model, 1)
    model.save_pretrained(folder)
    tiny.tokenizer("reformer").save_pretrained(folder)
    return tiny.load(folder)


def test_reformer_reads_long_inputs(tmp_path: Path) -> None:
    """An input of 4,096 tokens, with LoRA and a bottleneck adapter, in one batch with short ones."""
    backbone = make(
        tmp_path,
        max_position_embeddings=4096,
        axial_pos_shape=[64, 64],
        lsh_attn_chunk_length=64,
        local_attn_chunk_length=64,
    )
    assert backbone.max_tokens == 4096
    long, short = tiny.words(4094, 1), tiny.words(20, 2)
    for method in ("lora", "bottleneck"):
        bound = tiny.bound(backbone, tiny.adapter(backbone, method, 3))
        rows = [tiny.row(backbone, bound, text) for text in (long, short)]
        assert len(rows[0].ids) == 4096
        together = tiny.run(backbone, rows)
        assert together[0].shape == (4096, 64)
        assert tiny.difference(together, [tiny.run(backbone, [row])[0] for row in rows]) < CLOSE


@pytest.mark.parametrize("first", [14, 60])
def test_unset_buckets_do_not_depend_on_what_was_asked_before(tmp_path: Path, first: int) -> None:
    """A checkpoint without `num_buckets` takes what the text's own length asks for, every time."""
    backbone = make(tmp_path, num_buckets=None)
    tiny.ask(backbone, None, [tiny.words(first, 1)])
    texts = tiny.texts([14, 60, 30, 14, 5], seed=2)
    answers = tiny.ask(backbone, None, texts)
    for text, answer in zip(texts, answers, strict=True):
        model = AutoModel.from_pretrained(tmp_path).eval()  # a fresh one: transformers keeps the first choice
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        assert tiny.difference([answer], [expected]) < CLOSE


def test_gradients_equal_those_of_the_reversible_blocks(load_backbone: Any, base_folder: Any) -> None:
    """LoRA's gradients are the merged weights' own, dA = s B^T dW and dB = s dW A^T, as transformers trains them."""
    backbone = load_backbone("reformer")
    trainable = METHODS["lora"].trainable(backbone, {}, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    bound = replace(tiny.BARE, components=((METHODS["lora"], trainable.bound()),))
    row = tiny.row(backbone, bound, tiny.words(tiny.MAX_TOKENS - 2, 1))
    (states,) = forward(backbone, [row])
    weights = torch.arange(states.numel()).view(states.shape).float().cos()
    (states * weights).sum().backward()

    part = trainable.component()
    model = AutoModel.from_pretrained(base_folder("reformer"), **NO_DROPOUT).train()
    for site, leaves in part.tensors.items():
        merged = part.config.scales[site] * leaves["B"] @ leaves["A"]  # type: ignore[attr-defined]
        model.get_submodule(site).weight.data += merged
    ids = torch.tensor([row.ids])
    (model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0] * weights).sum().backward()

    gradients = [p.grad for p in trainable.parameters()]
    assert len(gradients) == 2 * len(part.tensors)
    values = [p.detach() for p in trainable.parameters()]
    for site, leaves in part.tensors.items():
        scale = part.config.scales[site]  # type: ignore[attr-defined]
        dense = model.get_submodule(site).weight.grad
        for leaf, expected in (("A", scale * leaves["B"].T @ dense), ("B", scale * dense @ leaves["A"].T)):
            found = [g for v, g in zip(values, gradients, strict=True) if torch.equal(v, leaves[leaf])]
            assert any(g is not None and torch.allclose(g, expected, atol=1e-3, rtol=1e-3) for g in found), (site, leaf)

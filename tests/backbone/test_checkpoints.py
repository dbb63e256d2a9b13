"""Settings of a checkpoint with which a packed pass would not be the model's own: followed exactly, or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import ConfigurationError
from transformers import AutoModel, AutoModelForCausalLM

from tests import tiny

TEXTS = tiny.texts([1, 7, 30, 12, 45, 8], seed=3)
CLOSE = 1e-5

WINDOWED: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["full_attention", "sliding_attention"],
}


def rotary(kind: str, **more: Any) -> dict[str, Any]:
    """Rotary positions of another kind."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}}


def make(folder: Path, family: str, settings: dict[str, Any]) -> Backbone:
    """A tiny backbone with some settings of its own."""
    config = tiny.config(family)
    for name, value in settings.items():
        setattr(config, name, value)
    model = (AutoModelForCausalLM if family in tiny.DECODERS else AutoModel).from_config(config)
    tiny.randomise(model, 1)
    model.save_pretrained(folder)
    tiny.tokenizer(family).save_pretrained(folder)
    return tiny.load(folder)


SUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("albert", {"num_hidden_groups": 2, "num_hidden_layers": 4}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt_neox", rotary("default", partial_rotary_factor=0.5)),
    ("llama", rotary("dynamic")),
    ("llama", rotary("yarn", original_max_position_embeddings=16)),
    ("llama", rotary("llama3", original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0)),
    ("opt", {"layer_norm_elementwise_affine": False, "enable_bias": False}),
    ("opt-after", {"layer_norm_elementwise_affine": False}),
    ("qwen2", WINDOWED),
    ("qwen3", WINDOWED),
    ("reformer", {"attn_layers": ["lsh", "lsh", "local", "lsh"], "num_hidden_layers": 4}),
    ("reformer", {"lsh_attn_chunk_length": 16}),
    ("reformer", {"max_position_embeddings": 60, "axial_pos_embds": False}),
    ("reformer", {"is_decoder": True}),
]


@pytest.mark.parametrize(("family", "settings"), SUPPORTED, ids=[f"{f}-{next(iter(s))}" for f, s in SUPPORTED])
def test_is_the_models_own(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    backbone = make(tmp_path, family, settings)
    model = AutoModel.from_pretrained(tmp_path).eval()
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        with torch.inference_mode():
            expected.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    assert tiny.difference(tiny.ask(backbone, None, TEXTS), expected) < CLOSE
    for method in ("lora", "bottleneck") if backbone.residual else ("lora",):
        adapter = tiny.adapter(backbone, method, 2)
        assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), tiny.alone(backbone, adapter, TEXTS)) < CLOSE


REJECTED: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"is_decoder": True}, "is_decoder"),
    ("roberta", {"is_decoder": True}, "is_decoder"),
    ("electra", {"is_decoder": True}, "is_decoder"),
    ("albert", {"inner_group_num": 2}, "groups of 2"),
    (
        "llama",
        rotary("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4, original_max_position_embeddings=16),
        "longrope",
    ),
]


@pytest.mark.parametrize(("family", "settings", "reason"), REJECTED, ids=[f"{f}-{r}" for f, _, r in REJECTED])
def test_is_refused_with_the_reason(tmp_path: Path, family: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        make(tmp_path, family, settings)


@pytest.mark.parametrize("family", tiny.PADDED)
def test_running_padded_is_said(base_folder: Any, caplog: pytest.LogCaptureFixture, family: str) -> None:
    with caplog.at_level(logging.INFO, "manyhats"):
        tiny.load(base_folder(family))
    assert [m for m in caplog.messages if "runs padded" in m] == [
        f"{family} models have an attention of their own; this one runs padded"
    ]


@pytest.mark.parametrize("family", tiny.PADDED)
def test_one_long_text_does_not_make_the_others_long(
    load_backbone: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(family)
    texts = [tiny.words(62, 0), *tiny.texts([3] * 40, seed=1)]
    expected = tiny.alone(backbone, None, texts)
    sizes: list[int] = []
    plain = backbone.encode

    def counting(batch: Any, *args: Any) -> Any:
        sizes.append(len(batch.input_ids))
        return plain(batch, *args)

    monkeypatch.setattr(backbone, "encode", counting)
    assert tiny.difference(tiny.ask(backbone, None, texts), expected) < CLOSE
    assert len(sizes) == 2
    assert sum(sizes) == 64 + 40 * 5

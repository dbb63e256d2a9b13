"""What a half type does to a backbone, and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.attention import choose_attention_kernels
from transformers import AutoModelForCausalLM

from tests import tiny

ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox", "modernbert")


@pytest.mark.parametrize("family", ROTARY)
def test_rotary_tables_stay_as_transformers_keeps_them(family: str, base_folder: Any) -> None:
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype="bfloat16")
    assert all(p.dtype == torch.bfloat16 for p in backbone.model.parameters())
    tables = {name: t for name, t in backbone.model.named_buffers() if name.endswith("inv_freq")}
    assert tables
    assert all(table.dtype == torch.float32 for table in tables.values())
    plain = Backbone.load(str(base_folder(family)), device="cpu", dtype="float32")
    assert all(torch.equal(table, plain.model.get_buffer(name)) for name, table in tables.items())


def test_a_long_text_in_bfloat16_is_as_right_as_in_transformers(tmp_path: Path) -> None:
    """1000 tokens on: with frequencies in bfloat16 too, the states were off by 12 %, and by 3 % with their own."""
    config = tiny.config("llama")
    config.max_position_embeddings = 1024
    model = AutoModelForCausalLM.from_config(config)
    tiny.randomise(model, 1)
    model.save_pretrained(tmp_path)
    tiny.tokenizer("llama").save_pretrained(tmp_path)
    text = tiny.words(998, seed=1)

    def states(dtype: str) -> torch.Tensor:
        backbone = Backbone.load(str(tmp_path), device="cpu", dtype=dtype)
        return tiny.ask(backbone, None, [text])[0].float()

    exact = states("float32")
    own = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval().base_model
    backbone = Backbone.load(str(tmp_path), device="cpu", dtype="float32")
    with torch.inference_mode():
        ids = torch.tensor([list(tiny.row(backbone, tiny.BARE, text).ids)])
        theirs = own(input_ids=ids).last_hidden_state[0].float()
    error = float((states("bfloat16") - exact).norm() / exact.norm())
    assert error < 1.5 * float((theirs - exact).norm() / exact.norm())
    assert error < 0.06


def test_cudnn_attention_is_left_out_on_cuda() -> None:
    """It makes a plan for every new shape, and each step of generation has new shapes."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        choose_attention_kernels(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        choose_attention_kernels(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)

"""What a half type does to a backbone, and what it must not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.attention import choose_attention_kernels
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from tests import families, tiny

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


# Reformer's own code fails in a half type for its positions, which it keeps in float32; here they are of the one type,
# and its masks' values, which it rounds, are not.
_OWN = re.compile(r"position_embeddings\.weights\.\d|mask_value_float(?:16|32)$")


def _named(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _same(backbone: Backbone, loaded: Any, family: str) -> None:
    """Every weight and table is of the type and the value that transformers itself gives it."""
    own, theirs = _named(backbone.model), _named(loaded.base_model)
    if backbone.pooler is not None:  # it stands beside the model
        own |= {f"pooler.{name}": weight for name, weight in _named(backbone.pooler).items()}
    if family == "reformer":
        own, theirs = ({n: t for n, t in side.items() if not _OWN.search(n)} for side in (own, theirs))
    assert own.keys() == theirs.keys()
    wrong = [n for n, t in theirs.items() if own[n].dtype != t.dtype or not torch.equal(own[n], t)]
    assert not wrong


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", families.one_of_each())
def test_a_model_is_as_transformers_itself_loads_it_in_a_half_type(family: str, dtype: str, base_folder: Any) -> None:
    kind = AutoModelForCausalLM if family in tiny.DECODERS else AutoModel
    loaded = kind.from_pretrained(base_folder(family), dtype=getattr(torch, dtype))
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype=dtype)
    _same(backbone, loaded, family)
    if backbone.has_language_model:
        own, theirs = _named(backbone.vocabulary.module), _named(loaded.get_output_embeddings())
        assert all(own[name].dtype == t.dtype and torch.equal(own[name], t) for name, t in theirs.items())


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_checkpoint_in_bfloat16_in_another_type(family: str, dtype: str, base_folder: Any, tmp_path: Path) -> None:
    kind = AutoModelForCausalLM if family in tiny.DECODERS else AutoModel
    kind.from_pretrained(base_folder(family), dtype=torch.bfloat16).save_pretrained(tmp_path)
    tiny.tokenizer(family).save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    _same(Backbone.load(str(tmp_path), device="cpu", dtype=dtype), loaded, family)


@pytest.mark.parametrize(
    ("named", "dtype", "stays"),
    [
        ("_keep_in_fp32_modules_strict", "bfloat16", True),
        ("_keep_in_fp32_modules_strict", "float16", True),
        ("_keep_in_fp32_modules", "bfloat16", False),
        ("_keep_in_fp32_modules", "float16", True),
    ],
)
def test_weights_that_a_class_keeps_in_float32(
    named: str, dtype: str, stays: bool, base_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaPreTrainedModel, named, ["mlp.down_proj", "layers.*.self_attn.q_proj"])
    loaded = AutoModelForCausalLM.from_pretrained(base_folder("llama"), dtype=getattr(torch, dtype))
    backbone = Backbone.load(str(base_folder("llama")), device="cpu", dtype=dtype)
    _same(backbone, loaded, "llama")
    kept = {name for name, weight in backbone.model.named_parameters() if weight.dtype == torch.float32}
    assert kept == (
        {f"layers.{i}.{m}.weight" for i in (0, 1) for m in ("mlp.down_proj", "self_attn.q_proj")} if stays else set()
    )
    assert backbone.original is not None
    shared = dict(backbone.original.base_model.named_parameters())
    assert all(shared[name] is weight for name, weight in backbone.model.named_parameters())


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

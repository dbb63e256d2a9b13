"""The example decoder, SmolLM2 (`make decoder`): texts of many methods together equal the installed
PEFT's `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE
from transformers import AutoModelForCausalLM

from tests import engines
from tests.parity.test_generation import generate as ours

peft = pytest.importorskip("peft")
from tests.references.peft_library import generate  # noqa: E402 - it imports PEFT

FOLDER = Path(__file__).parents[2] / "build" / "smollm2"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "model.safetensors").exists(), reason="needs the decoder that `make decoder` makes"
)

TEXTS = ["The capital of France is", "Once upon a time, in a small village by the sea,", "def fibonacci(n):"]
NEW = 20
_FEW = ["q_proj", "v_proj"]
CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=_FEW, task_type="CAUSAL_LM"),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "ln": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
    "shira": lambda: peft.ShiraConfig(r=4, target_modules=_FEW, task_type="CAUSAL_LM"),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=12, task_type="CAUSAL_LM"),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=8, task_type="CAUSAL_LM"),
}


@torch.no_grad()
def _change(model: Any, name: str) -> None:
    """Weights that change what is written, and leave it sensible."""
    generator = torch.Generator().manual_seed(1)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        noise = torch.randn(parameter.shape, generator=generator)
        if name in ("ia3", "ln") or (name == "dora" and parameter.dim() == 1):
            parameter.add_(noise * 0.02)
        else:
            parameter.copy_(noise * (0.3 if name in ("prefix", "prompt") else 0.02))


def test_a_mixed_batch_equals_peft(tmp_path: Path) -> None:
    backbone = Backbone.load(str(FOLDER), device="cpu", dtype="float32", prepacked=True)
    prompts = [backbone.tokenizer.encode_bare(text, 999).ids for text in TEXTS]
    worn = {"base": BARE}
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    expected = {("base", i): generate(model, prompt, NEW) for i, prompt in enumerate(prompts)}
    for name, config in CONFIGS.items():
        wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(FOLDER), config()).eval()
        _change(wrapped, name)
        expected |= {(name, i): generate(wrapped, prompt, NEW) for i, prompt in enumerate(prompts)}
        wrapped.save_pretrained(tmp_path / name)
        worn[name] = read_adapter(tmp_path / name, backbone).bind(backbone)
    asked = [(name, i) for i in range(len(prompts)) for name in worn]
    engine = engines.engine(backbone, cache=1 << 30, tokens=64, seqs=32)
    texts = ours(engine, [engines.generation(backbone, name, worn[name], prompts[i], new=NEW) for name, i in asked])
    sure = {pair: text for pair, text in zip(asked, texts, strict=True) if expected[pair] is not None}
    assert len(sure) > len(asked) // 2
    assert sure == {pair: expected[pair] for pair in sure}

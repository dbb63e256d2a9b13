"""Adapters on a backbone in 8 bits answer as the installed PEFT's do on modules that torchao itself has quantised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.formats.reader import read_adapter
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from tests import tiny

peft = pytest.importorskip("peft")
pytest.importorskip("torchao")

LINEAR = {"bert": ["query", "value", "intermediate.dense"], "llama": ["q_proj", "v_proj", "up_proj"]}
FED = {"bert": ["intermediate.dense"], "llama": ["down_proj"]}
BLOCKS = {"bert": "encoder.layer.", "llama": "layers."}
CONFIGS: dict[str, Callable[[str], Any]] = {
    "lora": lambda family: peft.LoraConfig(r=4, target_modules=LINEAR[family], init_lora_weights=False),
    "rslora": lambda f: peft.LoraConfig(r=4, target_modules=LINEAR[f], init_lora_weights=False, use_rslora=True),
    "dora": lambda family: peft.LoraConfig(r=4, target_modules=LINEAR[family], init_lora_weights=False, use_dora=True),
    "ia3": lambda family: peft.IA3Config(target_modules=LINEAR[family] + FED[family], feedforward_modules=FED[family]),
    "prompt": lambda family: peft.PromptTuningConfig(
        num_virtual_tokens=5, task_type="CAUSAL_LM" if family == "llama" else "FEATURE_EXTRACTION"
    ),
    "prefix": lambda family: peft.PrefixTuningConfig(
        num_virtual_tokens=5, task_type="CAUSAL_LM" if family == "llama" else "FEATURE_EXTRACTION"
    ),
}


def _quantized(folder: Path, family: str, name: str) -> Any:
    """transformers' model with its blocks' linear layers quantised by torchao's public call."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    kind = AutoModelForCausalLM if family == "llama" else AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[name](set_inductor_config=False)
    quantize_(model.base_model, config, lambda m, path: isinstance(m, nn.Linear) and path.startswith(BLOCKS[family]))
    return model


def _states(model: Any, ids: list[int], task: str) -> Tensor:
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
    states: Tensor = out.hidden_states[-1][0]
    return states[-len(ids) :] if task == "prompt" else states


@pytest.mark.parametrize("name", ["int8", "fp8"])
@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_answers_as_peft_on_the_same_quantised_modules(
    family: str, task: str, name: str, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    model = peft.get_peft_model(_quantized(base_folder(family), family, name), CONFIGS[task](family)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if task == "ia3" else 0.0))
    model.save_pretrained(tmp_path)
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype="float32", quantization=name)
    adapter = read_adapter(tmp_path, backbone)
    texts = tiny.texts([4, 17, 9])
    ours = tiny.ask(backbone, adapter, texts)
    rows = [tiny.row(backbone, tiny.BARE, text) for text in texts]
    expected = [_states(model, list(row.ids), task) for row in rows]
    assert tiny.difference(ours, expected) < tiny.CLOSE
    assert tiny.difference(ours, tiny.ask(backbone, None, texts)) > tiny.CLOSE

"""`manyhats convert --backbone`: PEFT's other methods as plain weights, equal to PEFT's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from manyhats.commands.differences import materialise
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats import read_adapter
from transformers import AutoModelForSequenceClassification

from tests import tiny

TEXTS = tiny.texts([2, 15], seed=7)
CONFIGS: dict[str, Any] = {
    "loha": lambda: peft.LoHaConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]),
    "lokr": lambda: peft.LoKrConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "dense"]),
    "oft": lambda: peft.OFTConfig(task_type="SEQ_CLS", oft_block_size=8, target_modules=["key"]),
    "hra": lambda: peft.HRAConfig(task_type="SEQ_CLS", r=4, target_modules=["value"]),
}
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_equals_peft(name: str, family: str, tmp_path: Path, base_folder: Any, load_backbone: Any) -> None:
    base, backbone = base_folder(family), load_backbone(family)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
    wrapped = peft.get_peft_model(model, CONFIGS[name]()).eval()
    tiny.randomise(wrapped, 3)
    wrapped.save_pretrained(tmp_path / "in")
    with pytest.raises(AdapterMismatch, match="manyhats convert PATH OUT --backbone"):
        read_adapter(tmp_path / "in", backbone)
    assert materialise(tmp_path / "in", tmp_path / "out", str(base)) > 0
    adapter = read_adapter(tmp_path / "out", backbone)
    assert adapter.method == name
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        with torch.inference_mode():
            expected.append(wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0])
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE


def test_what_cannot_be_made(tmp_path: Path, base_folder: Any) -> None:
    with pytest.raises(InvalidRequest, match="is no folder"):
        materialise(tmp_path / "nothing", tmp_path / "out", str(base_folder("bert")))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="no 'peft_type'"):
        materialise(tmp_path / "in", tmp_path / "out", str(base_folder("bert")))

"""The installed PEFT reads what Manyhats writes, and answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import KindName
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests import tiny

peft = pytest.importorskip("peft")

TEXTS = tiny.texts([1, 8, 30], seed=31)
KINDS: list[tuple[KindName, int]] = [("classify", 3), ("tokens", 5), ("regress", 1), ("embed", 0)]
_CLASSES: dict[str, Any] = {
    "classify": AutoModelForSequenceClassification,
    "regress": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "embed": AutoModel,
}


def _peft_answers(folder: Path, backbone: Backbone, adapter: Adapter) -> list[torch.Tensor]:
    options = {} if adapter.head is None else {"num_labels": adapter.head.num_labels}
    model = peft.PeftModel.from_pretrained(
        _CLASSES[adapter.kind].from_pretrained(backbone.name, **options), folder
    ).eval()
    answers = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            answers.append(out.last_hidden_state[0] if adapter.kind == "embed" else out.logits[0])
    return answers


@pytest.mark.parametrize(("kind", "labels"), KINDS)
@pytest.mark.parametrize("method", ["lora", "prefix"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra-narrow", "distilbert"])
def test_peft_reads_our_files(
    load_backbone, tmp_path: Path, family: str, method: str, kind: KindName, labels: int
) -> None:
    if (family, method) == ("distilbert", "prefix"):
        pytest.skip("PEFT has no prefix-tuning for DistilBERT")
    backbone = load_backbone(family)
    first = tiny.adapter(
        backbone, method, 9, kind=kind, labels=labels, **({"only": "layer."} if method == "lora" else {})
    )
    write_adapter(first, tmp_path, backbone)
    assert tiny.difference(_peft_answers(tmp_path, backbone, first), tiny.ask(backbone, first, TEXTS)) < tiny.CLOSE


def test_peft_reads_ranks_and_scales_that_differ(bert: Backbone, tmp_path: Path) -> None:
    first = tiny.uneven_lora(bert)
    write_adapter(first, tmp_path, bert)
    ours = tiny.ask(bert, first, TEXTS)
    assert tiny.difference(tiny.ask(bert, read_adapter(tmp_path, bert), TEXTS), ours) < 1e-5
    assert tiny.difference(_peft_answers(tmp_path, bert, first), ours) < tiny.CLOSE

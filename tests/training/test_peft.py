"""PEFT loads what was trained here and gives the same logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.formats import write_adapter
from manyhats.training.data import TaskKind
from manyhats.training.trainer import Trainer, predict
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests.training.samples import LABELS, items
from tests.training.test_trainer import _schedule

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("family", "method", "kind"),
    [
        ("bert", "lora", "classify"),
        ("bert", "lora", "tokens"),
        ("bert", "lora", "regress"),
        ("bert", "prefix", "classify"),
        ("bert", "prefix", "tokens"),
        ("roberta", "lora", "classify"),
        ("roberta", "prefix", "classify"),
        ("distilbert", "lora", "classify"),
    ],
)
def test_peft_gives_the_same_logits(
    load_backbone: Callable[[str], Backbone],
    base_folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    method: str,
    kind: TaskKind,
) -> None:
    backbone = load_backbone(family)
    trainer = Trainer(backbone, method, kind, len(LABELS), _schedule(method, epochs=2))
    trainer.run(items(backbone, kind, 60, 0), items(backbone, kind, 20, 1))
    settings = {} if kind == "regress" else {"labels": LABELS}
    write_adapter(trainer.adapter(settings), tmp_path, backbone)

    model_class = AutoModelForTokenClassification if kind == "tokens" else AutoModelForSequenceClassification
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's and transformers' own
        model = model_class.from_pretrained(base_folder(family), num_labels=1 if kind == "regress" else len(LABELS))
        worn = peft.PeftModel.from_pretrained(model, tmp_path).eval()
        held = items(backbone, kind, 6, 2)
        with torch.inference_mode():
            theirs = [worn(input_ids=torch.tensor([item.ids])).logits[0] for item in held]
    for ours, their in zip(predict(backbone, trainer.bound(), held), theirs, strict=True):
        torch.testing.assert_close(ours, their, atol=1e-3 if kind == "regress" else 1e-5, rtol=0)

"""The installed PEFT loads what was trained here and gives the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.kinds.examples import EncodedExample
from manyhats.engine.forward_input import ForwardInput
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.training.evaluation import predict
from manyhats.training.job import Job, run
from manyhats.training.trainer import Trainer
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests import tiny
from tests.training.samples import LABELS, encoded_examples
from tests.training.test_trainer import OPTIONS, _schedule

peft = pytest.importorskip("peft")


def inputs(item: EncodedExample) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([item.ids]), "token_type_ids": torch.tensor([item.type_ids])}


def _logits(output: Any, kind: str) -> torch.Tensor:
    if kind == "span":
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
    return output.logits[0]


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
        ("bert", "lora", "span"),
        *(
            ("bert", recipe, "classify")
            for recipe in ("rslora", "dora", "vera", "prompt", "p-tuning", "ia3", "layer-norm")
        ),
        *(("roberta", recipe, "tokens") for recipe in ("dora", "vera", "prompt", "ia3", "layer-norm")),
        ("bert", "token-rows", "classify"),  # for a class for each token PEFT's own files of it cannot be loaded
        ("roberta", "token-rows", "classify"),
    ],
)
def test_peft_gives_the_same_logits(
    load_backbone: Callable[[str], Backbone],
    base_folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    method: str,
    kind: str,
) -> None:
    backbone = load_backbone(family)
    trainer = Trainer(backbone, method, kind, len(LABELS), _schedule(method, epochs=2), OPTIONS.get(method))
    trainer.run(encoded_examples(backbone, kind, 60, 0), encoded_examples(backbone, kind, 20, 1))
    settings = {} if kind == "regress" else {"labels": LABELS}
    write_adapter(trainer.adapter(settings), tmp_path, backbone)

    model_class: Any = {"tokens": AutoModelForTokenClassification, "span": AutoModelForQuestionAnswering}.get(
        kind, AutoModelForSequenceClassification
    )
    model = model_class.from_pretrained(base_folder(family), num_labels=1 if kind == "regress" else len(LABELS))
    worn = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    held = encoded_examples(backbone, kind, 6, 2)
    with torch.inference_mode():
        # PEFT's wrapper for question answering leaves the token types out, so what it wraps is asked
        asked = worn.base_model if kind == "span" else worn
        theirs = [_logits(asked(**inputs(item)), kind) for item in held]
    for ours, their in zip(predict(backbone, trainer.bound(), held), theirs, strict=True):
        torch.testing.assert_close(ours, their[-len(ours) :], atol=1e-3 if kind == "regress" else 1e-5, rtol=0)


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_peft_reads_what_writes(load_backbone: Any, base_folder: Any, tmp_path: Path, method: str) -> None:
    backbone, data, out = load_backbone("llama"), tmp_path / "data.jsonl", tmp_path / "out"
    rows = [{"text": f"w{i % 30}", "label": f"w{i % 30 + 1} w{i % 30 + 1}"} for i in range(120)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    schedule: Any = {"epochs": 1}
    job = Job(
        task="next", method=method, kind="generate", data=data, out=out, template="w99 {text} w98", schedule=schedule
    )
    run(job, backbone, Console(quiet=True))
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder("llama")), out).eval()
    assert model.peft_config["default"].task_type == "CAUSAL_LM"
    ids = torch.tensor([[2, 9, 11, 30]])
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
    row = replace(ForwardInput(ids[0].tolist(), [0] * 4, read_adapter(out, backbone).bind(backbone)), next_token=True)
    assert tiny.difference(tiny.run(backbone, [row]), [expected]) < tiny.CLOSE

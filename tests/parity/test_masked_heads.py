"""Masked language-model heads: transformers' own logits and PEFT's stored ones, alone and among other tasks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.forward_input import ForwardInput
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM
from transformers.models.reformer import modeling_reformer

from tests import every, tiny
from tests.references.peft import References
from tests.references.peft_recipes import ENCODERS, masked, masked_texts

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def base(peft_references: References, peft_backbone: Any) -> Callable[[str], tuple[Path, Backbone]]:
    return lambda family: (peft_references.base(f"{family}-masked"), peft_backbone(f"{family}-masked"))


def rows(family: str, backbone: Backbone, worn: BoundAdapter) -> list[ForwardInput]:
    made = []
    for text in masked_texts("masked", family):
        row = tiny.row(backbone, worn, text)
        masks = tuple(i for i, token in enumerate(row.ids) if token == backbone.tokenizer.mask_id)
        made.append(replace(row, mask_positions=masks))
    return made


@torch.inference_mode()
def reference(model: Any, asked: list[ForwardInput]) -> list[torch.Tensor]:
    return [
        model(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids))).logits[
            0, list(row.mask_positions)
        ]
        for row in asked
    ]


@pytest.mark.parametrize("family", ENCODERS)
def test_the_bare_head_is_transformers_own(base: Any, family: str) -> None:
    folder, backbone = base(family)
    assert backbone.fills_masks
    assert not backbone.has_language_model
    asked = rows(family, backbone, BARE)
    expected = reference(AutoModelForMaskedLM.from_pretrained(folder).eval(), asked)
    assert tiny.difference(tiny.run(backbone, asked), expected) < tiny.CLOSE


CELLS = [(recipe.family, recipe.name) for recipe in masked() if recipe.texts == ""]


@pytest.mark.parametrize(("family", "name"), CELLS)
def test_equals_peft_among_other_tasks(base: Any, peft_references: References, family: str, name: str) -> None:
    _, backbone = base(family)
    adapter = read_adapter(peft_references.folder("masked", family, name), backbone)
    assert adapter.kind == "fill"
    asked = rows(family, backbone, adapter.bind(backbone))
    expected = peft_references.answer("masked", family, name).outputs
    assert tiny.difference(tiny.run(backbone, asked), expected) < tiny.CLOSE

    others = [tiny.row(backbone, other.bind(backbone), "w1 w2 w3") for other in every.adapters(backbone).values()]
    mixed = tiny.run(backbone, [asked[0], *others, asked[1], *rows(family, backbone, BARE), asked[2]])
    assert tiny.difference([mixed[0], mixed[len(others) + 1], mixed[-1]], expected) < tiny.CLOSE


def test_an_encoder_without_the_head_refuses(peft_references: References, peft_backbone: Any) -> None:
    with pytest.raises(AdapterMismatch, match="no masked language-model head"):
        read_adapter(peft_references.folder("masked", "bert", "lora"), peft_backbone("bert"))


def test_a_bias_that_a_later_transformers_adds_to_the_head_is_zero(
    peft_references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Reformer's head has one from 5.24 on; checkpoints from before do not hold it."""
    make = modeling_reformer.ReformerOnlyLMHead.__init__

    def with_bias(self: Any, config: Any) -> None:
        make(self, config)
        self.decoder = torch.nn.Linear(2 * config.hidden_size, config.vocab_size, bias=True)

    monkeypatch.setattr(modeling_reformer.ReformerOnlyLMHead, "__init__", with_bias)
    backbone = tiny.load(peft_references.base("reformer-masked"))
    adapter = read_adapter(peft_references.folder("masked", "reformer", "lora"), backbone)
    asked = rows("reformer", backbone, adapter.bind(backbone))
    expected = peft_references.answer("masked", "reformer", "lora").outputs
    assert tiny.difference(tiny.run(backbone, asked), expected) < tiny.CLOSE


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("bert", "cls.predictions.bias"),
        ("bert", "cls.predictions.transform.dense.weight"),
        ("distilbert", "vocab_projector.bias"),
        ("electra", "generator_lm_head.bias"),
    ],
)
def test_a_head_that_lacks_weights_is_left_out(
    peft_references: References, tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, lost: str
) -> None:
    folder = shutil.copytree(peft_references.base(f"{family}-masked"), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert not tiny.load(folder).fills_masks
    assert f"lacks weights of its masked language-model head: {lost.rpartition('.')[0]}" in caplog.text

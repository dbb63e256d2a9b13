"""Masked language-model heads: transformers' and PEFT's own logits at the masks, alone and among other tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.forward import Row
from manyhats.formats import read_adapter
from manyhats.methods.adapter import BARE, BoundAdapter
from transformers import AutoModelForMaskedLM

from tests import every, tiny
from tests.parity.peft_cases import NAMES

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ENCODERS = (*tiny.FAMILIES, *tiny.SHARED_OR_LOCAL, *tiny.PADDED)
# The linear layers and norms of each family's own head, as PEFT's users would train them.
HEADS = {
    "bert": ["cls"],
    "roberta": ["lm_head"],
    "xlm-roberta": ["lm_head"],
    "electra": ["generator_predictions"],
    "electra-narrow": ["generator_predictions"],
    "distilbert": ["vocab_transform", "vocab_layer_norm"],
    "albert": ["predictions"],
    "modernbert": ["head"],
    "mpnet": ["lm_head"],
}
ADAPTERS: dict[str, Callable[[list[str], str], Any]] = {
    "lora": lambda names, family: peft.LoraConfig(r=4, target_modules=names),
    "lora-everywhere": lambda names, family: peft.LoraConfig(r=4, target_modules="all-linear"),
    "lora-biases": lambda names, family: peft.LoraConfig(r=4, target_modules=names, bias="all"),
    "lora-head": lambda names, family: peft.LoraConfig(r=4, target_modules=names, modules_to_save=HEADS[family]),
    "ia3": lambda names, family: peft.IA3Config(target_modules=names, feedforward_modules=[]),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Backbone]]:
    root = tmp_path_factory.mktemp("masked")

    @cache
    def load(family: str) -> tuple[Path, Backbone]:
        folder = tiny.write_base(family, root / family, masked=True)
        return folder, tiny.load(folder)

    return load


def texts(backbone: Backbone) -> list[str]:
    mask = backbone.tokenizer.mask_token
    return [f"w1 {mask} w3", f"{mask} w9 {mask} w30 w31 w32 w33 w34 w35 w36 w37 w38", f"w4 w5 {mask}"]


def rows(backbone: Backbone, worn: BoundAdapter) -> list[Row]:
    made = []
    for text in texts(backbone):
        row = tiny.row(backbone, worn, text)
        masks = tuple(i for i, token in enumerate(row.ids) if token == backbone.tokenizer.mask_id)
        made.append(replace(row, masks=masks))
    return made


@torch.inference_mode()
def reference(model: Any, asked: list[Row]) -> list[torch.Tensor]:
    return [
        model(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids))).logits[0, list(row.masks)]
        for row in asked
    ]


@pytest.mark.parametrize("family", ENCODERS)
def test_the_bare_head_is_transformers_own(base: Any, family: str) -> None:
    folder, backbone = base(family)
    assert backbone.fills_masks
    assert not backbone.has_language_model
    asked = rows(backbone, BARE)
    expected = reference(AutoModelForMaskedLM.from_pretrained(folder).eval(), asked)
    assert tiny.difference(tiny.run(backbone, asked), expected) < tiny.CLOSE


# Reformer's head is one layer that is tied to the embeddings, beside a bias that its forward never reads.
CELLS = [(f, n) for f in ENCODERS for n in ADAPTERS if f != "reformer" or n not in ("lora-head", "lora-biases")]


@pytest.mark.parametrize(("family", "name"), CELLS)
def test_equals_peft_among_other_tasks(base: Any, family: str, name: str, tmp_path: Path) -> None:
    folder, backbone = base(family)
    config = ADAPTERS[name](NAMES[family.removesuffix("-narrow")].query_value, family)
    model = peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(folder), config).eval()
    tiny.randomise(model, seed=3)
    model.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path, backbone)
    assert adapter.kind == "fill"
    asked = rows(backbone, adapter.bind(backbone))
    expected = reference(model, asked)
    assert tiny.difference(tiny.run(backbone, asked), expected) < tiny.CLOSE

    others = [tiny.row(backbone, other.bind(backbone), "w1 w2 w3") for other in every.adapters(backbone).values()]
    mixed = tiny.run(backbone, [asked[0], *others, asked[1], *rows(backbone, BARE), asked[2]])
    assert tiny.difference([mixed[0], mixed[len(others) + 1], mixed[-1]], expected) < tiny.CLOSE


def test_an_encoder_without_the_head_refuses(load_backbone: Any, base: Any, tmp_path: Path) -> None:
    folder, _ = base("bert")
    model = peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(folder), peft.LoraConfig(target_modules=["query"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="no masked language-model head"):
        read_adapter(tmp_path, load_backbone("bert"))

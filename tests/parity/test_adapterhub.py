"""Adapters of AdapterHub, every method of it: the outputs that its own library computed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import UnsupportedFormat
from manyhats.formats import read_adapter
from manyhats.methods.adapter import BARE, Adapter
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny

# A logit closer to the best one than this may be chosen by another rounding.
GAP = 1e-3
METHODS_OF = {
    "dora": ("lora",),
    "fusion": ("fusion",),
    "ia3": ("ia3",),
    "lora": ("lora",),
    "mam": ("prefix+bottleneck",),
    "prefix": ("prefix",),
    "prompt": ("prompt",),
    "seq_bn_inv": ("invertible+bottleneck",),
    "unipelt": ("prefix+bottleneck+lora",),
}

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = sorted(path.name for path in (FIXTURES / "cases").iterdir())
BASES = sorted(path.name for path in (FIXTURES / "bases").iterdir())


@cache
def base(name: str) -> Backbone:
    return tiny.load(FIXTURES / "bases" / name)


@dataclass(frozen=True)
class Case:
    """What a case asks, and the right answers."""

    description: dict
    backbone: Backbone
    adapter: Adapter | None
    expected: list[Tensor]
    close: list[int]  # texts where rounding may choose another token

    @property
    def texts(self) -> list[str]:
        return self.description["texts"]


@cache
def case(name: str) -> Case:
    folder = FIXTURES / "cases" / name
    description = json.loads((folder / "case.json").read_text())
    backbone = base(description["base"])
    adapter = read_adapter(folder / description["upload"], backbone) if "upload" in description else None
    answers = load_file(folder / "expected.safetensors")
    key = {"embed": "hidden", "generate": "tokens"}.get(description["kind"], "logits")
    texts = range(len(description["texts"]))
    expected = [answers[f"{key}_{i}"] for i in texts]
    close = [i for i in texts if description["kind"] == "generate" and float(answers[f"gap_{i}"].min()) < GAP]
    return Case(description, backbone, adapter, expected, close)


def continued(asked: Case, texts: list[str], wanted: list[Tensor]) -> list[list[int]]:
    """Greedy tokens, all texts in one batch at every step."""
    worn = tiny.bound(asked.backbone, asked.adapter) if asked.adapter else BARE
    rows = [replace(tiny.row(asked.backbone, worn, text), continues=True) for text in texts]
    new: list[list[int]] = [[] for _ in rows]
    for _ in range(max(map(len, wanted))):
        for i, logits in enumerate(tiny.run(asked.backbone, rows)):
            new[i].append(int(logits.argmax()))
            rows[i] = replace(rows[i], ids=[*rows[i].ids, new[i][-1]], type_ids=[*rows[i].type_ids, 0])
    return new


def test_the_cases_are_there() -> None:
    assert len(CASES) > 90
    assert BASES == ["bert", "distilbert", "gpt2", "llama", "roberta"]


SPOKEN = [name for name in CASES if "generate" in name or name in ("base-gpt2", "base-llama")]
READ = [name for name in CASES if name not in SPOKEN]


@pytest.mark.parametrize("name", SPOKEN)
def test_continues_as_the_library(name: str) -> None:
    asked = case(name)
    chosen = [i for i in range(len(asked.texts)) if i not in asked.close]
    wanted = [asked.expected[i] for i in chosen]
    assert continued(asked, [asked.texts[i] for i in chosen], wanted) == [w.tolist() for w in wanted]


@pytest.mark.parametrize("name", READ)
def test_equals_the_library(name: str) -> None:
    asked = case(name)
    together = tiny.ask(asked.backbone, asked.adapter, asked.texts)
    one_by_one = tiny.alone(asked.backbone, asked.adapter, asked.texts)
    assert tiny.difference(together, asked.expected) < tiny.CLOSE
    assert tiny.difference(one_by_one, asked.expected) < tiny.CLOSE


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("base-")])
def test_what_the_reader_says(name: str) -> None:
    asked = case(name)
    adapter = asked.adapter
    assert adapter is not None
    assert adapter.method in METHODS_OF.get(asked.description["method"], ("bottleneck",))
    assert adapter.kind == asked.description["kind"]
    assert (adapter.rank is None) == (adapter.method == "ia3")
    labels = asked.description.get("labels")
    if labels and adapter.kind != "regress":
        assert adapter.settings["labels"] == labels
    if asked.description.get("num_labels"):
        assert adapter.head is not None
        assert adapter.head.num_labels == asked.description["num_labels"]


@pytest.mark.parametrize("name", BASES)
def test_all_in_one_batch(name: str) -> None:
    """Every case of a backbone, with the other methods beside them."""
    backbone = base(name)
    asked = [case(n) for n in READ if case(n).backbone is backbone]
    rows, expected = [], []
    for one in asked:
        worn = tiny.bound(backbone, one.adapter)
        rows += [tiny.row(backbone, worn, text) for text in one.texts[:3]]
        expected += one.expected[:3]
    for i, method in enumerate(("lora", "prefix", "mask")):
        worn = tiny.bound(backbone, tiny.adapter(backbone, method, 20 + i, kind="classify", labels=2 + i))
        batch = tiny.texts([3, 18], seed=i)
        rows += [tiny.row(backbone, worn, text) for text in batch]
        expected += tiny.alone(backbone, worn, batch)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    outputs = tiny.run(backbone, [rows[i] for i in order])
    assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE


@pytest.mark.parametrize("name", [name for name in CASES if (FIXTURES / "cases" / name / "adapter_st").exists()])
def test_pickles_are_refused(name: str) -> None:
    asked = case(name)
    with pytest.raises(UnsupportedFormat, match="manyhats convert"):
        read_adapter(FIXTURES / "cases" / name / "adapter", asked.backbone)

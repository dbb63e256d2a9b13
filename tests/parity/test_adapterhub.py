"""Bottleneck adapters of AdapterHub: the outputs that its own library computed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import UnsupportedFormat
from manyhats.formats import read_adapter
from manyhats.methods.adapter import Adapter
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny

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
    key = "hidden" if description["kind"] == "embed" else "logits"
    expected = [answers[f"{key}_{i}"] for i in range(len(description["texts"]))]
    return Case(description, backbone, adapter, expected)


def test_the_cases_are_there() -> None:
    assert len(CASES) > 30
    assert BASES == ["bert", "distilbert", "roberta"]


@pytest.mark.parametrize("name", CASES)
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
    assert adapter.method == "bottleneck"
    assert adapter.kind == asked.description["kind"]
    assert adapter.rank is not None
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
    asked = [case(n) for n in CASES if case(n).backbone is backbone]
    rows, expected = [], []
    for one in asked:
        worn = tiny.bound(backbone, one.adapter)
        rows += [tiny.row(backbone, worn, text) for text in one.texts[:4]]
        expected += one.expected[:4]
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

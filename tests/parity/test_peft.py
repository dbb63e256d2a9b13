"""LoRA and prefix-tuning: what PEFT itself computed for every text alone, as it is stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.formats.reader import read_adapter
from torch import Tensor

from tests import tiny
from tests.references.peft import References
from tests.references.peft_recipes import ADAPTERS as CASES
from tests.references.peft_recipes import texts

TEXTS = texts("adapters")


@dataclass(frozen=True)
class Answered:
    """A case as read by us, and PEFT's answers to `TEXTS`."""

    backbone: Backbone
    adapter: Adapter
    expected: Sequence[Tensor]


@pytest.fixture(scope="module")
def answered(peft_references: References, peft_backbone: Callable[[str], Backbone]) -> Callable[[str], Answered]:
    @cache
    def make(name: str) -> Answered:
        case = CASES[name]
        backbone = peft_backbone(case.family)
        adapter = read_adapter(peft_references.folder("adapters", case.family, name), backbone)
        return Answered(backbone, adapter, peft_references.answer("adapters", case.family, name).outputs)

    return make


@pytest.mark.parametrize("name", CASES)
def test_equals_peft(answered: Callable[[str], Answered], name: str) -> None:
    one = answered(name)
    assert tiny.difference(tiny.alone(one.backbone, one.adapter, TEXTS), one.expected) < tiny.CLOSE
    assert tiny.difference(tiny.ask(one.backbone, one.adapter, TEXTS), one.expected) < tiny.CLOSE


@pytest.mark.parametrize("name", CASES)
def test_what_the_reader_says(answered: Callable[[str], Answered], name: str) -> None:
    case, adapter = CASES[name], answered(name).adapter
    assert adapter.method == ("lora" if case.config == "LoraConfig" else "prefix")
    if case.task == "FEATURE_EXTRACTION":
        assert adapter.kind == "embed"
        assert adapter.head is None
    else:
        assert adapter.kind == ("tokens" if case.task == "TOKEN_CLS" else "regress" if case.labels == 1 else "classify")
        assert adapter.head is not None
        assert adapter.head.num_labels == case.labels
    if adapter.method == "prefix":
        assert adapter.rank == case.options["num_virtual_tokens"]
    assert adapter.base is not None


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_in_one_batch(answered: Callable[[str], Answered], peft_backbone: Any, family: str) -> None:
    """All of PEFT's adapters of a backbone, of any label count, with the bare backbone and the other methods."""
    backbone = peft_backbone(family)
    rows: list[Any] = []
    expected: list[Tensor] = []
    for name, case in CASES.items():
        if case.family == family:
            one = answered(name)
            worn = tiny.bound(backbone, one.adapter)
            rows += [tiny.row(backbone, worn, text) for text in TEXTS[:4]]
            expected += one.expected[:4]
    others = [
        None,
        tiny.adapter(backbone, "mask", 1, kind="classify", labels=2),
        tiny.adapter(backbone, "mask", 2, kind="tokens", only="layer.1"),
        tiny.adapter(backbone, "bottleneck", 3, kind="regress", labels=1),
        tiny.adapter(backbone, "bottleneck", 4, original_ln_before=True),
        tiny.adapter(backbone, "bottleneck", 5, is_parallel=True, scaling=4.0),
        tiny.adapter(backbone, "prefix", 6, shift_positions=False),
    ]
    for i, other in enumerate(others):
        worn = tiny.bound(backbone, other)
        batch = tiny.texts([2, 30, 9], seed=i)
        rows += [tiny.row(backbone, worn, text) for text in batch]
        expected += tiny.alone(backbone, worn, batch)
    for seed in range(3):
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        outputs = tiny.run(backbone, [rows[i] for i in order])
        assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE

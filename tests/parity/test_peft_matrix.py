"""Every method of PEFT on every family: PEFT's own outputs, alone and all in one batch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch
from manyhats.formats import read_adapter
from manyhats.methods.adapter import Adapter
from torch import Tensor

from tests import tiny
from tests.parity.peft_cases import METHODS, NAMES, answers, make

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TEXTS = tiny.texts([1, 6, 23], seed=8)
CELLS = [(m, f) for m, method in METHODS.items() for f in NAMES if not method.only or f in method.only]


# What stands in docs/methods.md, written by `python -m tests.parity.matrix`.
EXPECTED: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "matrix.json").read_text())


def short(status: str) -> str:
    """A cell without what differs from run to run."""
    return status.partition(":")[0]


@dataclass(frozen=True)
class Cell:
    """`status`: passed, or why PEFT has no such adapter, or why we refuse it."""

    status: str
    adapter: Adapter | None = None
    expected: tuple[Tensor, ...] = ()


@pytest.fixture(scope="session")
def cells(base_folder: Any, load_backbone: Any, tmp_path_factory: Any) -> Callable[[str, str], Cell]:
    root = tmp_path_factory.mktemp("matrix")

    @cache
    def cell(name: str, family: str) -> Cell:
        method, folder = METHODS[name].of(family), root / f"{name}-{family}"
        backbone: Backbone = load_backbone(family)
        tokens = [list(tiny.row(backbone, tiny.BARE, text).ids) for text in TEXTS]
        try:
            made = make(method, family, base_folder(family))
            expected = answers(made, method, tokens)
        except Exception as error:
            return Cell(f"n/a: {type(error).__name__}: {error}")
        made.model.save_pretrained(folder)
        try:
            adapter = read_adapter(Path(folder), backbone)
        except AdapterMismatch as error:
            return Cell(f"refused: {error}")
        return Cell("passed", adapter, tuple(expected))

    return cell


@pytest.mark.parametrize(("name", "family"), CELLS)
def test_equals_peft(cells: Any, load_backbone: Any, name: str, family: str) -> None:
    one = cells(name, family)
    assert short(one.status) == EXPECTED[name][family]
    if one.adapter is None:
        return
    backbone = load_backbone(family)
    worn = tiny.bound(backbone, one.adapter)
    rows = [replace(tiny.row(backbone, worn, t), continues=METHODS[name].task == "CAUSAL_LM") for t in TEXTS]
    alone = [tiny.run(backbone, [row])[0] for row in rows]
    assert tiny.difference(alone, one.expected) < tiny.CLOSE
    assert tiny.difference(tiny.run(backbone, rows), one.expected) < tiny.CLOSE


@pytest.mark.parametrize("family", NAMES)
def test_all_in_one_batch(cells: Any, load_backbone: Any, family: str) -> None:
    backbone = load_backbone(family)
    rows, expected = [], []
    for name, other in CELLS:
        if other == family and (one := cells(name, family)).adapter is not None:
            worn = tiny.bound(backbone, one.adapter)
            continues = METHODS[name].task == "CAUSAL_LM"
            rows += [replace(tiny.row(backbone, worn, text), continues=continues) for text in TEXTS]
            expected += one.expected
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    outputs = tiny.run(backbone, [rows[i] for i in order])
    assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE

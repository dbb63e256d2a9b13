"""Every method of PEFT on every family: PEFT's own outputs, as they are stored, alone and all in one batch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from torch import Tensor

from tests import tiny
from tests.parity.peft_cases import METHODS, NAMES
from tests.references.peft import References
from tests.references.peft_absent import ABSENT
from tests.references.peft_recipes import every, texts

TEXTS = texts("matrix")
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
def cells(peft_references: References, peft_backbone: Any) -> Callable[[str, str], Cell]:
    @cache
    def cell(name: str, family: str) -> Cell:
        answer = peft_references.answer("matrix", family, name)
        if answer.absent is not None:
            return Cell(f"n/a: {answer.absent}")
        try:
            adapter = read_adapter(peft_references.folder("matrix", family, name), peft_backbone(family))
        except AdapterMismatch as error:
            return Cell(f"refused: {error}")
        return Cell("passed", adapter, answer.outputs)

    return cell


def test_what_peft_has_not_is_what_is_listed(peft_references: References) -> None:
    """For each stored case of any group, and of the tables' cases none is missing and none is left over."""
    listed = {(r.family, r.group, r.name): r.absent for r in every()}
    stored = {tuple(key.split()): answer.absent for key, answer in peft_references.every().items()}
    found = {key: absent for key, absent in stored.items() if key[1] not in ("base", "merging")}
    assert found.keys() == listed.keys()
    assert {key[1:] + key[:1] for key, absent in found.items() if absent is not None} == ABSENT.keys()
    for key, absent in found.items():
        if absent is not None:
            assert absent.startswith(listed[key] or "?")


@pytest.mark.parametrize(("name", "family"), CELLS)
def test_equals_peft(cells: Any, peft_backbone: Any, name: str, family: str) -> None:
    one = cells(name, family)
    assert short(one.status) == EXPECTED[name][family]
    if one.adapter is None:
        return
    backbone = peft_backbone(family)
    worn = tiny.bound(backbone, one.adapter)
    rows = [replace(tiny.row(backbone, worn, t), next_token=METHODS[name].task == "CAUSAL_LM") for t in TEXTS]
    alone = [tiny.run(backbone, [row])[0] for row in rows]
    assert tiny.difference(alone, one.expected) < tiny.CLOSE
    assert tiny.difference(tiny.run(backbone, rows), one.expected) < tiny.CLOSE


@pytest.mark.parametrize("family", NAMES)
def test_all_in_one_batch(cells: Any, peft_backbone: Any, family: str) -> None:
    backbone = peft_backbone(family)
    rows, expected = [], []
    for name, other in CELLS:
        if other == family and (one := cells(name, family)).adapter is not None:
            worn = tiny.bound(backbone, one.adapter)
            next_token = METHODS[name].task == "CAUSAL_LM"
            rows += [replace(tiny.row(backbone, worn, text), next_token=next_token) for text in TEXTS]
            expected += one.expected
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    outputs = tiny.run(backbone, [rows[i] for i in order])
    assert tiny.difference(outputs, [expected[i] for i in order]) < tiny.CLOSE


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2"])  # with Conv1D layers, and with a tied head
def test_what_is_read_is_written_and_read_back(cells: Any, peft_backbone: Any, tmp_path: Path, family: str) -> None:
    """In PEFT's format where it has a place for all that we write, and in our own elsewhere."""
    backbone = peft_backbone(family)
    tried = 0
    for name, other in CELLS:
        if other == family and (one := cells(name, family)).adapter is not None:
            folder = tmp_path / name
            folder.mkdir()
            write_adapter(one.adapter, folder, backbone)
            again = read_adapter(folder, backbone)
            assert again.kind == one.adapter.kind
            assert tiny.difference(*(tiny.ask(backbone, a, TEXTS) for a in (again, one.adapter))) < 1e-5, name
            tried += 1
    assert tried > 25

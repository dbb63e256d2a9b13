"""The adapters that AdapterHub's library wrote, and its outputs: see `tests/fixtures/README.md`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.formats.reader import read_adapter
from torch import Tensor

from tests import tiny
from tests.references.store import Store, scratch

# A logit closer to the best one than this may be chosen by another rounding.
GAP = 1e-3

ROOT = Path(__file__).parents[1] / "fixtures" / "adapterhub"
STORE = Store(ROOT)
CASES = list(STORE.lines)
# The library writes these as pickles only; what is stored are the same tensors as safetensors.
PICKLED = [name for name in CASES if STORE.lines[name].get("pickled")]
_TOKENIZERS: dict[str, str] = json.loads((ROOT / "bases" / "tokenizers.json").read_text())
BASES = list(_TOKENIZERS)

_OUTPUTS = {"embed": "hidden", "generate": "tokens"}


@dataclass(frozen=True)
class Case:
    """What a case asks, and the right answers."""

    description: dict[str, Any]
    backbone: Backbone
    adapter: Adapter | None
    input_ids: list[Tensor]
    expected: list[Tensor]
    close: list[int]  # texts where rounding may choose another token

    @property
    def texts(self) -> list[str]:
        return self.description["texts"]


@cache
def base_folder(name: str) -> Path:
    """A backbone with its tokenizer; not to be changed."""
    folder = shutil.copytree(ROOT / "bases" / name, scratch() / "adapterhub" / "bases" / name)
    return shutil.copytree(ROOT / "tokenizers" / _TOKENIZERS[name], folder, dirs_exist_ok=True)


@cache
def base(name: str) -> Backbone:
    """A backbone, loaded once."""
    return tiny.load(base_folder(name))


@cache
def folder(name: str) -> Path:
    """A case's adapter as the library wrote it; not to be changed."""
    return STORE.write(name, scratch() / "adapterhub" / "cases" / name)


@cache
def case(name: str) -> Case:
    """A case, its adapter read once."""
    line = STORE.lines[name]
    backbone = base(line["base"])
    adapter = read_adapter(folder(name), backbone) if "files" in line else None
    answers = STORE.expected(name)
    output = _OUTPUTS.get(line["kind"], "logits")
    texts = range(len(line["texts"]))
    close = [i for i in texts if line["kind"] == "generate" and float(answers[f"gap_{i}"].min()) < GAP]
    input_ids = [answers[f"input_ids_{i}"] for i in texts]
    return Case(line, backbone, adapter, input_ids, [answers[f"{output}_{i}"] for i in texts], close)

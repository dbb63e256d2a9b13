"""Writes what every method of PEFT gives on every family: `matrix.json`, and the table in docs/methods.md.

    python -m tests.parity.matrix

A cell says "passed" only because `test_peft_matrix` compares it with PEFT's own outputs.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path

from manyhats.errors import AdapterMismatch
from manyhats.formats import read_adapter

from tests import tiny
from tests.parity.peft_cases import METHODS, NAMES, make

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
_MARKS = {"passed": "=", "refused": "refused", "n/a": "-"}


def statuses() -> dict[str, dict[str, str]]:
    """By method and family: passed, refused, or n/a where PEFT itself has none."""
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for family in NAMES:
            base = tiny.write_base(family, root / family)
            backbone = tiny.load(base)
            for name, method in METHODS.items():
                if method.only and family not in method.only:
                    continue
                folder = root / f"{name}-{family}"
                try:
                    made = make(method, family, base)
                    made.model(input_ids=tiny_ids(), attention_mask=tiny_ids() * 0 + 1)
                except Exception:
                    table.setdefault(name, {})[family] = "n/a"
                    continue
                made.model.save_pretrained(folder)
                try:
                    read_adapter(folder, backbone)
                    table.setdefault(name, {})[family] = "passed"
                except AdapterMismatch:
                    table.setdefault(name, {})[family] = "refused"
    return table


def tiny_ids():
    """Some tokens."""
    import torch

    return torch.tensor([[2, 9, 11, 3]])


def markdown(table: dict[str, dict[str, str]]) -> str:
    """The table, families across."""
    families = list(NAMES)
    lines = ["| PEFT | " + " | ".join(families) + " |", "|---" * (len(families) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_MARKS[row.get(family, "n/a")] for family in families) + " |")
    return "\n".join(lines)


def section(text: str) -> str:
    """What stands between the marks."""
    found = re.search(rf"{BEGIN}\n(.*?)\n{END}", text, re.DOTALL)
    assert found is not None
    return found[1]


def main() -> None:
    """Writes both."""
    warnings.simplefilter("ignore")
    table = statuses()
    (HERE / "matrix.json").write_text(json.dumps(table, indent=1) + "\n")
    text = DOCS.read_text()
    DOCS.write_text(text.replace(section(text), markdown(table)))


if __name__ == "__main__":
    main()

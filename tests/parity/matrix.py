"""Writes what every method of PEFT gives on every family: `matrix.json`, and the table in docs/methods.md.

    python -m tests.parity.matrix

A cell says "passed" only because `test_peft_matrix` compares it with PEFT's own outputs, as they are stored; PEFT
is not asked.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter

from tests import every, tiny
from tests.parity.peft_cases import METHODS, NAMES
from tests.references.adapterhub import STORE
from tests.references.peft import References

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "methods.md"
MARKS = {
    name: (f"<!-- {name} -->", f"<!-- end of {name} -->") for name in ("matrix", "own matrix", "adapterhub matrix")
}
METHODS_OF_OURS = sorted(every.ALL)
_MARKS = {"passed": "=", "refused": "refused", "n/a": "-"}


def statuses() -> dict[str, dict[str, str]]:
    """By method and family: passed, refused, or n/a where PEFT itself has none."""
    table: dict[str, dict[str, str]] = {name: {} for name in METHODS}
    with tempfile.TemporaryDirectory() as temporary:
        references = References(Path(temporary))
        for family in NAMES:
            backbone = tiny.load(references.base(family))
            for name in references.names("matrix", family):
                table[name][family] = "n/a"
                if references.answer("matrix", family, name).absent is not None:
                    continue
                try:
                    read_adapter(references.folder("matrix", family, name), backbone)
                    table[name][family] = "passed"
                except AdapterMismatch:
                    table[name][family] = "refused"
    return table


def markdown(table: dict[str, dict[str, str]], title: str = "PEFT", families: list[str] | None = None) -> str:
    """The table, families across."""
    families = families or list(NAMES)
    lines = [f"| {title} | " + " | ".join(families) + " |", "|---" * (len(families) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_MARKS[row.get(family, "n/a")] for family in families) + " |")
    return "\n".join(lines)


def own() -> str:
    """The methods themselves, as `methods/test_properties` and the tests of each family try them."""
    rows: dict[str, dict[str, str]] = {method: {} for method in METHODS_OF_OURS}
    with tempfile.TemporaryDirectory() as temporary:
        for family in NAMES:
            made = every.parts(tiny.load(tiny.write_base(family, Path(temporary) / family)))
            for method in rows:
                rows[method][family] = "passed" if method in made else "refused"
    return markdown(rows, "method")


def adapterhub() -> str:
    """What the library's fixtures hold."""
    rows: dict[str, dict[str, str]] = {}
    for told in STORE.lines.values():
        if "files" in told:
            rows.setdefault(told["method"], {})[told["base"]] = "passed"
    return markdown(dict(sorted(rows.items())), "AdapterHub", ["bert", "roberta", "distilbert", "gpt2", "llama"])


def section(text: str, name: str) -> str:
    """What stands between the marks."""
    begin, end = MARKS[name]
    found = re.search(rf"{begin}\n(.*?)\n{end}", text, re.DOTALL)
    assert found is not None
    return found[1]


def main() -> None:
    """Writes all."""
    table = statuses()
    (HERE / "matrix.json").write_text(json.dumps(table, indent=1) + "\n")
    text = DOCS.read_text()
    for name, made in (("matrix", markdown(table)), ("own matrix", own()), ("adapterhub matrix", adapterhub())):
        begin, end = MARKS[name]
        text = text.replace(f"{begin}\n{section(text, name)}\n{end}", f"{begin}\n{made}\n{end}")
    DOCS.write_text(text)


if __name__ == "__main__":
    main()

"""How the page's sources depend on each other, and those of the TypeScript client."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_IMPORT = re.compile(r"""\b(?:from|import)\s*\(?\s*["'](\.[^"']*)["']""")  # types too
_ENDINGS = (".ts", ".tsx", "/index.ts", "/index.tsx")


def imported(path: Path) -> set[Path]:
    """The files of the project that one names."""
    found = set()
    for name in _IMPORT.findall(path.read_text(encoding="utf-8")):
        stem = str((path.parent / name).resolve()).removesuffix(".js")
        found |= {file for ending in _ENDINGS if (file := Path(stem + ending)).is_file()}
    return found


@pytest.mark.parametrize(("folder", "least"), [("server/page/src", 80), ("clients/typescript/src", 10)])
def test_no_files_import_each_other_in_a_circle(folder: str, least: int) -> None:
    files = [path for path in (ROOT / folder).rglob("*.ts*") if path.suffix in (".ts", ".tsx")]
    edges = {file: imported(file) for file in files}
    assert sum(map(len, edges.values())) > least  # they are seen
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(file.relative_to(ROOT)) for file in error.args[1]))

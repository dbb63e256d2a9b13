"""SECURITY.md: every threat names tests that hold its defence, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.docs.pages import ROOT

ATTACKERS = {"client", "tenant", "uploader", "page", "neighbour", "folder", "supply"}
HEAD = ["who", "threat", "defence", "held by"]


def rows() -> list[list[str]]:
    """The lines of the threat model's tables."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    model = text.partition("\n## Threat model\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in model.splitlines() if line[:1] == "|"]
    return [row for row in cells if row != HEAD and not set(row[0]) <= {"-"}]


@cache
def named_in(path: str) -> set[str]:
    """The tests in a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_threat_is_held_by_tests_that_are_there() -> None:
    found = rows()
    assert len(found) > 30
    for row in found:
        assert len(row) == len(HEAD), row
        who, threat, defence, held = row
        assert who in ATTACKERS, row
        assert threat, row
        assert defence, row
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", held)
        assert named, f"no test holds this: {threat}"
        assert ", ".join(f"`{path}::{name}`" for path, name in named) == held, row
        for path, name in named:
            assert (ROOT / path).is_file(), f"{threat}: there is no {path}"
            assert name in named_in(path), f"{threat}: there is no {name} in {path}"


def test_every_attacker_is_told_of_and_kept_out_somewhere() -> None:
    assert {row[0] for row in rows()} == ATTACKERS
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for name in ATTACKERS:
        assert re.search(rf"(?mi)^- \*\*(a|an|the) {name}", text), name

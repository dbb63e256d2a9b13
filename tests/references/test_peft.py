"""The stored references of PEFT: that no test needs PEFT for them, and that a change of theirs is seen."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.references.peft import Answer, References, Shelf, differences, files_of, write_files

TESTS = Path(__file__).parents[1]
ASKS = {"peft", "tests.references.peft_library"}
# What makes the references, and what asks it; `tests/live` is run by itself.
MAKERS = {
    TESTS / "references" / "peft_library.py",
    TESTS / "fixtures" / "peft" / "make.py",
    TESTS / "fixtures" / "brought" / "make.py",
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("importorskip", "import_module")):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def test_the_suite_imports_no_peft() -> None:
    asking = {path for path in TESTS.rglob("*.py") if any(n in ASKS or n.startswith("peft.") for n in imports(path))}
    assert {path for path in asking if TESTS / "live" not in path.parents} == MAKERS


@pytest.fixture
def answer(peft_references: References) -> Answer:
    return peft_references.answer("matrix", "bert", "lora")


def changed(answer: Answer, name: str, **changes: Any) -> Answer:
    return replace(answer, files={**answer.files, name: {**answer.files[name], **changes}})


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def test_nothing_differs_from_itself(answer: Answer) -> None:
    shuffled = changed(answer, CONFIG, target_modules=answer.files[CONFIG]["target_modules"][::-1])
    assert differences(answer, shuffled, 1e-5) == []  # PEFT keeps them as a set


def test_every_change_is_said(answer: Answer, peft_references: References) -> None:
    name, tensor = next(iter(answer.files[WEIGHTS].items()))
    for made, told in (
        (changed(answer, WEIGHTS, **{name: tensor + 1e-5}), rf"{name} differs by 1e-05"),
        (changed(answer, WEIGHTS, **{name: tensor.double()}), "is torch.float64"),
        (changed(answer, WEIGHTS, **{name: tensor[:1]}), r"\(1, 32\)"),
        (changed(answer, WEIGHTS, new=tensor), "a new new"),
        (replace(answer, files={CONFIG: answer.files[CONFIG]}), f"no file {WEIGHTS}"),
        (changed(answer, CONFIG, r=5), "r is 5, and was 4"),
        (changed(answer, CONFIG, added=1), "added is 1, and was 'missing'"),
        (replace(answer, outputs=answer.outputs[1:]), "2 outputs, and 3 were stored"),
        (replace(answer, outputs=(answer.outputs[0] + 1e-3, *answer.outputs[1:])), "0 differs by 0.001"),
        (Answer(absent="TypeError"), "absent: 'TypeError', and was None"),
    ):
        found = differences(answer, made, 1e-4)
        with pytest.raises(AssertionError, match=told):
            assert not found, "\n".join(found)
    assert differences(answer, changed(answer, CONFIG, r=5), 1e-4, frozenset({"r"})) == []
    written = peft_references.answer("generation", "llama", "lora")
    other = replace(written, tokens=([1, 2], *written.tokens[1:]))
    assert "and wrote" in differences(written, other, 1e-4)[0]
    assert differences(written, replace(written, tokens=(None, *written.tokens[1:])), 1e-4) == []


def test_what_is_put_away_comes_back(tmp_path: Path) -> None:
    tensor = torch.tensor([[0.1, -0.0], [float("inf"), 3.0]])
    files = {CONFIG: {"a": "ä", "b": [1, None]}, WEIGHTS: {"x": tensor, "y": tensor.clone(), "z": tensor.half()}}
    shelf = Shelf()
    shelf.add({"group": "g", "case": "c"}, Answer(files, (tensor,), ([1], None)))
    shelf.write(tmp_path, "f")
    found = References(tmp_path / "out", tmp_path)
    assert found.names("g", "f") == ["c"]
    folder = found.folder("g", "f", "c")
    write_files(files, tmp_path / "again")
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert files_of(folder)[CONFIG] == files[CONFIG]
    again = found.answer("g", "f", "c")
    assert again.tokens == ([1], None)
    assert torch.equal(again.outputs[0], tensor)
    with pytest.raises(KeyError, match="make write"):
        found.answer("g", "f", "d")


def test_a_failure_with_the_installed_library_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "live"
    folder.mkdir(parents=True)
    (folder / "conftest.py").write_text((TESTS / "live" / "conftest.py").read_text())
    (folder / "test_stored.py").write_text("def test_still(): pass\n")
    (folder / "test_written.py").write_text("def test_changed(): raise ValueError('theirs')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = live: compares with another library\n")

    def said() -> str:
        command = [sys.executable, "-m", "pytest", "--strict-markers", "-p", "no:cacheprovider", "tests/live"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    first = said()
    assert "1 failure, first tests/live/test_written.py::test_changed; the suite's own stored references" in first
    assert "look first at what Manyhats writes" in first
    (folder / "test_stored.py").write_text("def test_still(): raise ValueError('theirs')\n")
    second = said()
    assert "2 failures, first" in second
    assert "1 of them is a stored reference that the library no longer gives" in second
    from transformers import __version__

    assert second.count(f" with transformers {__version__}") == 3  # at each failure, and at the end

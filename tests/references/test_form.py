"""The fixtures hold nothing twice, no pickles but where a pickle is tried, and no large files."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
from manyhats.formats.pickles import looks_like_pickle
from safetensors.torch import load_file

from tests.references import adapterhub
from tests.references.store import EXPECTED, SEPARATOR, Store

FIXTURES = Path(__file__).parents[1] / "fixtures"
STORES = sorted(path.parent for path in FIXTURES.glob("*/cases.jsonl"))
LARGEST_FILE = 1 << 20
LARGEST_CASE = 100_000
# Smaller tensors may be equal by chance or by design, like zeros.
LARGE_TENSOR = 1_024


def files() -> Iterable[Path]:
    """All files but what Python leaves behind."""
    return (path for path in FIXTURES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_the_stores_are_found() -> None:
    assert adapterhub.ROOT in STORES


def test_no_file_is_there_twice() -> None:
    by_content: dict[str, list[Path]] = defaultdict(list)
    for path in files():
        by_content[sha256(path.read_bytes()).hexdigest()].append(path.relative_to(FIXTURES))
    assert not [same for same in by_content.values() if len(same) > 1]


def test_pickles_are_where_pickles_are_tried() -> None:
    kinds = {path.suffix for path in files()}
    assert kinds <= {".bin", ".json", ".jsonl", ".md", ".py", ".safetensors", ".txt"}
    pickles = [path for path in files() if path.suffix == ".bin" or looks_like_pickle(path)]
    assert 1 <= len(pickles) <= 4
    assert {path.parents[1] for path in pickles} == {adapterhub.ROOT / "pickles"}


def test_no_file_is_large() -> None:
    assert not [path for path in files() if path.stat().st_size > LARGEST_FILE]
    cases = [path for root in STORES for path in (root / "cases").iterdir()]
    assert not [path for path in cases if path.stat().st_size > LARGEST_CASE]


@pytest.mark.parametrize("root", STORES, ids=lambda root: root.name)
def test_a_case_is_a_line_and_a_file(root: Path) -> None:
    lines = (root / "cases.jsonl").read_text().splitlines()
    names = list(Store(root).lines)
    assert len(lines) == len(names)
    assert names == sorted(names)
    assert {path.name for path in (root / "cases").iterdir()} == {f"{name}.safetensors" for name in names}


@pytest.mark.parametrize("root", STORES, ids=lambda root: root.name)
def test_no_large_tensor_of_an_adapter_is_there_twice(root: Path) -> None:
    """What has several names is stored once, and told in `same`."""
    places: dict[str, list[str]] = defaultdict(list)
    bases = {f"bases/{path.parent.name}": path for path in (root / "bases").glob("*/model.safetensors")}
    for name, path in bases.items() | {path.stem: path for path in (root / "cases").iterdir()}.items():
        for key, tensor in load_file(path).items():
            if tensor.nbytes >= LARGE_TENSOR and not key.startswith(EXPECTED + SEPARATOR):
                places[sha256(tensor.contiguous().numpy().tobytes()).hexdigest()].append(f"{name}: {key}")
    assert places
    assert not [same for same in places.values() if len(same) > 1]


def test_adapterhubs_script_names_the_library_that_wrote_the_files() -> None:
    pins = dict(
        line.split("==")
        for line in (adapterhub.ROOT / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    versions = {
        name: {content["version"] for content in line.get("files", {}).values()}
        for name, line in adapterhub.STORE.lines.items()
    }
    assert versions.pop("ah-bert-lora-v100-alpha") == {"adapters.1.0.0"}
    assert set().union(*versions.values()) == {f"adapters.{pins['adapters']}"}
    readme = (FIXTURES / "README.md").read_text()
    assert f"`adapters` {pins['adapters']} on transformers {pins['transformers']} and torch {pins['torch']}" in readme


def test_scripts_import_nothing_of_ours() -> None:
    """They run in environments where Manyhats is not installed; AdapterHub's, where its tests cannot be imported."""
    scripts = list(FIXTURES.glob("*/make.py"))
    assert adapterhub.ROOT / "make.py" in scripts
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            strangers = {"manyhats", "manyhats_client"} | ({"tests"} if script.parent == adapterhub.ROOT else set())
            assert not {name.split(".")[0] for name in names} & strangers, script

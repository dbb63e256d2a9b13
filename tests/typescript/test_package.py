"""The TypeScript client's package: what is generated, checked and packed."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import manyhats
import pytest

from tests.typescript.conftest import CLIENT, npm


def test_it_has_the_version_of_the_server() -> None:
    assert json.loads((CLIENT / "package.json").read_text())["version"] == manyhats.__version__


def test_its_lock_names_no_addresses() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    assert lock["packages"][""]["version"] == manyhats.__version__
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert name == "" or "integrity" in package, name


def test_files_are_small() -> None:
    files = [*CLIENT.glob("src/*.ts"), *CLIENT.glob("tests/*.ts"), *CLIENT.glob("scripts/*")]
    lengths = {path.name: path.read_text().count("\n") for path in files if path.name != "schema.ts"}
    assert len(lengths) > 10
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.node
def test_what_is_generated_follows_the_schema(installed: Path) -> None:
    """And the check says of a file that does not, package.json, that it does not."""
    with pytest.raises(AssertionError, match="make openapi") as failed:
        npm("run", "--silent", "generate", "--", "--check", "package.json")
    assert "package.json is not what" in str(failed.value)
    assert "schema.ts is not what" not in str(failed.value)


@pytest.mark.node
def test_what_is_packed(built: Path, tmp_path: Path) -> None:
    npm("pack", "--ignore-scripts", "--pack-destination", str(tmp_path))
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("package/") for name in tar.getnames()}
    assert {"package.json", "README.md", "LICENSE", "dist/index.js", "dist/index.d.ts", "dist/node.js"} <= names
    assert all(re.match(r"package\.json|README\.md|LICENSE|dist/", name) for name in names), names
    assert archive.stat().st_size < 60_000

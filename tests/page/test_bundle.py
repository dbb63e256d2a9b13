"""The bundle in the package is what its sources make."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "server" / "page"


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_the_bundle_is_what_the_sources_make(tmp_path: Path):
    sources, made = tmp_path / "page", tmp_path / "static"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("node_modules"))

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"

    run("npm", "ci", "--ignore-scripts")
    run("npm", "run", "check")
    run("npm", "run", "build", "--", str(made))
    committed = resources.files("manyhats.api") / "static"
    names = {path.name for path in made.iterdir()}
    assert names == {path.name for path in committed.iterdir()}
    for name in names:
        same = (made / name).read_bytes() == (committed / name).read_bytes()
        assert same, f"{name} is not what server/page makes: run `make page`"


def test_the_lock_names_no_place_of_its_packages():
    assert "resolved" not in (SOURCES / "package-lock.json").read_text()

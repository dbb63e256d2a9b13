"""Versions that the answers cannot be trusted with are refused by name, in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from manyhats import supported
from manyhats.errors import UnsupportedVersion
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
RIGHT = {"torch": "2.13.0", "transformers": "5.23.0"}


def test_the_ranges_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for name, supports in supported.RANGES.items():
        assert SpecifierSet(supports) == declared[name]


def test_this_environment_is_supported() -> None:
    versions = supported.installed()
    imported = {"torch": torch.__version__, "transformers": transformers.__version__}
    assert {name: Version(v).public for name, v in versions.items()} == {
        name: Version(v).public for name, v in imported.items()
    }
    assert supported.problem(versions) is None
    supported.require()
    assert f"transformers {transformers.__version__}" in supported.described()


@pytest.mark.parametrize("version", ["2.11.0", "2.14.1", "2.13.0+cpu", "2.12.0+cu130"])
def test_releases_of_torch_that_are_supported(version: str) -> None:
    assert supported.problem(RIGHT | {"torch": version}) is None


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.10.0"),
        ("torch", "2.15.0"),
        ("torch", "2.15.0.dev20261101"),
        ("transformers", "4.57.6"),
        ("transformers", "5.16.1"),
        ("transformers", "6.0.0"),
    ],
)
def test_other_releases_are_named_with_the_range(name: str, version: str) -> None:
    message = supported.problem(RIGHT | {name: version})
    assert message == (
        f"{name} {version} is not supported, only {supported.RANGES[name]}; run pip install "
        f"'{name}{supported.RANGES[name]}'"
    )


# ---- environments as they are found


def distribution(folder: Path, name: str, version: str, module: str | None = None) -> None:
    """What an installer leaves: a record, and a module that says its version."""
    record = folder / f"{name}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if module is not None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"__version__ = {module!r}\n")


def said(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and what stands on stderr when `manyhats` starts with `folder` before all else that can be imported."""
    path = os.pathsep.join([str(folder), str(ROOT / "server"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "manyhats.cli", *words],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stderr


SERVE = ("serve", "--backbone", "package:nothing", "--port", "0")


def test_another_library_brought_an_older_transformers(tmp_path: Path) -> None:
    distribution(tmp_path, "transformers", "4.57.6", module="4.57.6")
    code, line = said(tmp_path, *SERVE)
    assert code == 1
    assert re.fullmatch(r"manyhats: transformers 4\.57\.6 is not supported, only >=5\.17,<6; run pip .*\n", line)


def test_two_records_in_one_folder(tmp_path: Path) -> None:
    distribution(tmp_path, "transformers", "5.20.0", module="5.20.0")
    distribution(tmp_path, "transformers", "5.23.0")
    code, line = said(tmp_path, *SERVE)
    assert code == 1
    assert line.startswith(
        f"manyhats: transformers is installed twice in {tmp_path}, as 5.20.0 and 5.23.0; remove both"
    )
    assert line.count("\n") == 1


def test_what_is_imported_is_not_what_is_recorded(tmp_path: Path) -> None:
    distribution(tmp_path, "transformers", "5.23.0", module="4.57.6")
    code, line = said(tmp_path, *SERVE)
    assert code == 1
    assert "two versions of transformers are mixed in this environment" in line
    assert "5.23.0 is installed, but 4.57.6 is imported" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(("recorded", "imported"), [("2.11.0", "2.11.0+cu130"), ("2.13.0+cpu", "2.13.0+cpu")])
def test_a_build_may_say_more_of_itself_than_its_record(
    recorded: str, imported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's CUDA builds do; met on a real machine."""
    monkeypatch.setattr(supported, "installed", lambda: RIGHT | {"torch": recorded})
    modules = {"torch": imported, "transformers": RIGHT["transformers"]}
    monkeypatch.setattr(
        supported.importlib, "import_module", lambda name: SimpleNamespace(__version__=modules[name], __file__="x/y")
    )
    supported.require()
    modules["torch"] = "2.12.0+cu130"
    with pytest.raises(UnsupportedVersion, match="two versions of torch are mixed"):
        supported.require()


def test_commands_that_only_ask_a_server_still_run(tmp_path: Path) -> None:
    distribution(tmp_path, "transformers", "4.57.6", module="4.57.6")
    code, line = said(tmp_path, "tasks", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "no answer from http://127.0.0.1:9" in line


def test_the_doctor_names_it(tmp_path: Path) -> None:
    distribution(tmp_path, "transformers", "4.57.6", module="4.57.6")
    code, line = said(tmp_path, "doctor")
    assert code == 1
    assert "transformers 4.57.6 is not supported" in line


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supported.metadata, "distributions", lambda name: [])
    with pytest.raises(UnsupportedVersion, match=r"torch is not installed; run pip install 'torch>=2\.11,<2\.15'"):
        supported.installed()


def test_it_is_refused_where_the_backbone_is_imported(tmp_path: Path) -> None:
    """So that no script and no notebook goes round it."""
    distribution(tmp_path, "transformers", "5.16.1", module="5.16.1")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "server")])
    ended = subprocess.run(
        [sys.executable, "-c", "from manyhats.backbone import Backbone"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "UnsupportedVersion: transformers 5.16.1 is not supported, only >=5.17,<6" in ended.stderr

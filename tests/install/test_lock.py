"""requirements/constraints.txt holds one exact version of everything, and belongs to the ranges in both projects."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock

ROOT = Path(__file__).resolve().parents[2]
MADE_FROM = (*lock.PROJECTS, lock.HELD)
COMPILED = (
    "setup.py",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("server/manyhats/kernels/cpu/*.[ch]")),
)

# Where an install must find a version of everything: one entry a Python, and the systems that differ in what they take.
ENVIRONMENTS = [
    default_environment()
    | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_machine": machine,
    }
    | {"os_name": "posix", "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system]}
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]


def lines(name: str) -> list[Requirement]:
    """The requirements in a file of lines."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [Requirement(line) for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]


def asked() -> list[tuple[str, Requirement]]:
    """Every requirement of both projects with the file that has it: extras, what builds, and what is held."""
    found = [(lock.HELD, requirement) for requirement in lines(lock.HELD)]
    for name in lock.PROJECTS:
        settings = tomllib.loads((ROOT / name).read_text(encoding="utf-8"))
        project = settings["project"]
        groups = [project["dependencies"], settings["build-system"]["requires"]]
        groups += project.get("optional-dependencies", {}).values()
        found += [(name, requirement) for group in groups for requirement in map(Requirement, group)]
    return [(name, requirement) for name, requirement in found if requirement.name != "manyhats"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What an install reads before it installs anything."""
    for name in (*MADE_FROM, *COMPILED, lock.LOCK, "requirements/alone.txt", "scripts/lock.py", "Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make_install(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "install", *variables]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def said(run: subprocess.CompletedProcess[str]) -> list[str]:
    """What a failed target printed, without make's own last line."""
    assert run.returncode != 0
    return [line for line in (run.stdout + run.stderr).splitlines() if not line.startswith("make")]


def test_the_lock_is_made_from_the_ranges_as_they_are():
    assert lock.complaint(ROOT) is None


def test_every_line_is_one_exact_version():
    pins = lines(lock.LOCK)
    assert len(pins) > 100
    for pin in pins:
        assert [clause.operator for clause in pin.specifier] == ["=="], pin
        assert not pin.url, pin
        assert not pin.extras, pin
    text = (ROOT / lock.LOCK).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text, "no option of pip's belongs in the lock"
    assert "/" not in text.replace(lock.PROJECTS[1], "").replace(lock.HELD, ""), "no path of the machine that made it"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: f"{e['python_version']}-{e['platform_machine']}")
def test_every_range_has_one_version_that_fits(environment):
    pins: dict[str, list[str]] = {}
    for pin in lines(lock.LOCK):
        if pin.marker is None or pin.marker.evaluate(environment):
            pins.setdefault(canonicalize_name(pin.name), []).extend(clause.version for clause in pin.specifier)
    for source, requirement in asked():
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert len(versions) == 1, (
            f"{source} asks for {requirement}; the lock has {versions or 'none'}: run `make lock`"
        )
        assert requirement.specifier.contains(versions[0], prereleases=True), f"{source}: {requirement}: {versions[0]}"


def test_what_is_installed_alone_has_an_exact_version():
    alone = lines("requirements/alone.txt")
    assert all([clause.operator for clause in pin.specifier] == ["=="] for pin in alone)
    names = {pin.name for pin in alone}
    used = set()
    for raw in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        before, found, after = raw.partition("-c $(ALONE) ")
        if found:
            assert "--no-deps" in before or after == "pip", raw
            used |= set(after.split())
    assert used == names


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pyproject.toml", '"rich>=', '"rich>0.1,>='),  # the version in the lock still fits
        ("pyproject.toml", 'requires-python = ">=3.11"', 'requires-python = ">=3.12"'),
        ("pyproject.toml", '"peft>=', '"einops", "peft>='),
        ("clients/python/pyproject.toml", '"httpx>=', '"httpx>0.1,>='),
        (lock.HELD, "torch==2.13.0", "torch==2.12.0"),
    ],
)
def test_a_changed_range_is_told(checkout, name, old, new):
    path = checkout / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert "run `make lock`" in (lock.complaint(checkout) or "")


def test_comments_and_order_change_nothing(checkout):
    path = checkout / lock.HELD
    path.write_text("# Another reason.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    path = checkout / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    first = '    "filelock>=3.16",\n'
    assert first in text
    path.write_text(text.replace(first, "").replace('    "uvicorn>=', first + '    "uvicorn>='), encoding="utf-8")
    assert lock.complaint(checkout) is None


def test_install_says_in_one_line_that_the_lock_is_out_of_date(checkout):
    path = checkout / "pyproject.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"rich>=', '"rich>0.1,>='), encoding="utf-8")
    run = make_install(checkout, f"PYTHON={sys.executable}")
    assert said(run) == [
        "requirements/constraints.txt is not made from the ranges in pyproject.toml, clients/python/pyproject.toml and "
        "requirements/held.in: run `make lock` and commit it"
    ]
    assert not (checkout / ".venv").exists()


def test_install_says_in_one_line_that_the_lock_is_missing(checkout):
    (checkout / lock.LOCK).unlink()
    assert "run `make lock`" in (lock.complaint(checkout) or "")


@pytest.mark.parametrize("version", ["(3, 10, 9)", "(3, 15, 0)"])
def test_install_refuses_a_python_that_torch_has_no_build_for(checkout, version):
    python = checkout / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = {version}; $2"\n')
    python.chmod(0o755)
    major, minor = version.strip("()").split(", ")[:2]
    assert said(make_install(checkout, f"PYTHON={python}")) == [
        f"manyhats installs on Python 3.11 to 3.14, not {major}.{minor}: "
        "make install PYTHON=python3.12, or another of them"
    ]
    assert not (checkout / ".venv").exists()


def test_a_changed_lock_installs_again(checkout):
    """`make install` is up to date until the lock, the ranges, the packages installed alone or the kernels change."""
    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()

    def due() -> bool:
        return subprocess.run(["make", "-q", "install"], cwd=checkout, check=False, capture_output=True).returncode == 1

    assert not due()
    assert len(COMPILED) > 1
    for name in (*lock.PROJECTS, *COMPILED, lock.LOCK, "requirements/alone.txt"):
        changed = checkout / name
        later = stamp.stat().st_mtime_ns + 10**9
        os.utime(changed, ns=(later, later))
        assert due(), name
        os.utime(stamp, ns=(later, later))
        assert not due()

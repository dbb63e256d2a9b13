"""Writes requirements/constraints.txt, one exact version of everything that is needed, and says when it is out of date.

    python scripts/lock.py build/uv/bin/uv           the newest of everything within the ranges (`make lock`)
    python scripts/lock.py --keep build/uv/bin/uv    only what a changed range makes necessary
    python scripts/lock.py --check                   exit 1, with one line, where the file does not belong to the ranges

The file's head carries a digest of the ranges that it was made from, so that a check needs neither a resolver nor a
network. Uses the standard library alone: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECTS = ("pyproject.toml", "clients/python/pyproject.toml")
HELD = "requirements/held.in"
LOCK = "requirements/constraints.txt"
OLDEST_PYTHON = "3.11"
MARK = "# Made from ranges with the sha256 "
HEAD = f"""\
# One exact version of everything that the server, the client, training, the tests and a release need, for Python
# {OLDEST_PYTHON} and newer. Made by `make lock` from the ranges in {PROJECTS[0]} and {PROJECTS[1]}, and from
# {HELD}; not edited by hand. For `pip install -c`: what nothing asks for is not installed.
"""


def digest(root: Path) -> str:
    """The sha256 of everything that the lock is made from, in a form that order and comments do not change."""
    asked: dict[str, object] = {}
    for name in PROJECTS:
        settings = tomllib.loads((root / name).read_text(encoding="utf-8"))
        project = settings["project"]
        extras = project.get("optional-dependencies", {})
        asked[name] = {
            "build": sorted(settings["build-system"]["requires"]),
            "python": project["requires-python"],
            "dependencies": sorted(project["dependencies"]),
            "extras": {extra: sorted(lines) for extra, lines in extras.items()},
        }
    lines = (line.partition("#")[0].strip() for line in (root / HELD).read_text(encoding="utf-8").splitlines())
    asked[HELD] = sorted(filter(None, lines))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def complaint(root: Path) -> str | None:
    """What is wrong with the lock, in one line that says what to do; None where it belongs to the ranges."""
    path = root / LOCK
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    if found == [digest(root)]:
        return None
    state = "is not made from" if text else "is missing; it is made from"
    return f"{LOCK} {state} the ranges in {', '.join(PROJECTS)} and {HELD}: run `make lock` and commit it"


def resolve(root: Path, uv: str, keep: bool) -> str:
    """The lock's text. Raises CalledProcessError where the ranges have no solution; uv has said why."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "constraints.txt"
        if keep and (root / LOCK).exists():
            out.write_bytes((root / LOCK).read_bytes())  # uv keeps what it finds in its output
        command = [uv, "pip", "compile", "--quiet", "--no-config", "--universal", "--python-version", OLDEST_PYTHON]
        command += ["--all-extras", "--no-header", "--no-emit-index-url", "--annotation-style", "line"]
        command += ["--output-file", str(out), *PROJECTS, HELD]
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
        return f"{HEAD}{MARK}{digest(root)}\n\n{out.read_text(encoding='utf-8')}"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write or check requirements/constraints.txt.")
    parser.add_argument("uv", nargs="?", default="uv", help="the uv program (default: the one on the path)")
    parser.add_argument("--keep", action="store_true", help="keep the versions that still fit")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where the file is out of date")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    if arguments.check:
        if said := complaint(root):
            print(said, file=sys.stderr)
        return 1 if said else 0
    try:
        text = resolve(root, arguments.uv, arguments.keep)
    except FileNotFoundError:
        print(f"no program {arguments.uv}: run `make lock`, which installs it", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    (root / LOCK).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

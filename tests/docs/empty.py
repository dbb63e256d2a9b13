"""A fresh clone with no environment: what a reader begins with who has pip and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from tests.docs.pages import ROOT
from tests.docs.story import Story, fresh_clone

_CUDA = re.compile(r"nvidia|cuda|triton")


def pip_brings_cuda() -> bool:
    """Whether the torch that pip would install here is a build for CUDA, of several GB. Only its metadata is read."""
    report = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"),
            *("--report", "-", "-c", ROOT / "requirements" / "constraints.txt", "torch"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    (torch,) = json.loads(report.stdout)["install"]
    needed = [Requirement(line) for line in torch["metadata"].get("requires_dist", [])]
    return any(_CUDA.match(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""}))


class Empty(Story):
    """A story whose `python3` is the one that the tests' environment was made of, and which finds nothing of that
    environment's."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "programs"
        programs.mkdir()
        python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        # Not a link: an environment made through one would look for Python's library beside it.
        (programs / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        (programs / "python3").chmod(0o755)
        (folder / "clone").mkdir()
        super().__init__(
            fresh_clone(folder / "clone"),
            PATH=f"{programs}{os.pathsep}{os.defpath}",
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            PIP_NO_COMPILE="no",  # pip's word for "do not compile": Python compiles what is imported, a part of all
        )
        for name in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"):
            self.environment.pop(name, None)

    def imported(self, code: str) -> str:
        """What a program prints in the environment that the story made."""
        return self.command(f".venv/bin/python -c '{code}'").strip()

"""A new method, format, kernel backend and family are a subclass or an entry, and a line in their registry each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_what_is_in_a_registry_is_used_as_any_other() -> None:
    """In a process of its own: much is derived from the registries when the modules that need it are imported."""
    command = [sys.executable, "-m", "tests.extensions"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all were used as any other"

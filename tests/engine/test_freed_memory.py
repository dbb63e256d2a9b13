"""The next pass gets the memory that the last one freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BLOCKS = """
import resource, sys
import torch
from manyhats.engine.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2 << 20)  # 8 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
faults()
print(int(kept), faults())
"""


def _run(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[bool, int]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", _BLOCKS], capture_output=True, text=True, check=True, timeout=120)
    kept, faults = done.stdout.split()
    return bool(int(kept)), int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_freed_blocks_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, faults = _run(monkeypatch)
    if not kept:
        pytest.skip("another C library, or its allocator is set")
    assert faults < 500, "without it, 20 blocks of 8 MB are some thousand faults"


def test_a_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _run(monkeypatch, MALLOC_TRIM_THRESHOLD_="131072")[0]

"""What a file was read into goes back to the system, also where the allocator keeps freed blocks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

COUNT = 100
_LOADS = """
import ctypes, os, sys
import torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from manyhats.engine.freed_memory import keep_freed_memory
from manyhats.formats.files import read_tensors
from manyhats.methods.arena import in_arena

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def load(_):
    return in_arena([tensor.to(torch.bfloat16) for tensor in read_tensors(Path(sys.argv[1])).values()])

kept = keep_freed_memory()
with ThreadPoolExecutor(2) as threads:
    held = list(threads.map(load, range(8)))
    before = resident()
    held += threads.map(load, range(int(sys.argv[2])))
print(int(kept), resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_adapters_take_the_bytes_of_their_tensors(tmp_path: Path) -> None:
    tensors = {f"layer.{i}.weight": torch.ones(8, 560) for i in range(72)}  # 1.3 MB
    save_file(tensors, tmp_path / "x.safetensors")
    command = [sys.executable, "-c", _LOADS, str(tmp_path / "x.safetensors"), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    kept, grown = done.stdout.split()
    if not int(kept):
        pytest.skip("another C library, or its allocator is set")
    assert int(grown) < 1.15 * COUNT * sum(tensor.nbytes // 2 for tensor in tensors.values())

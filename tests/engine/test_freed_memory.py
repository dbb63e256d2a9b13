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


# How many heaps of other threads than the first there are. Each begins at a multiple of 64 MiB, with the pages in use.
_HEAPS = """
import threading
import torch
from manyhats.engine.freed_memory import keep_freed_memory

keep_freed_memory()
def heaps():
    with open("/proc/self/maps") as file:
        begins = [int(line.split("-")[0], 16) for line in file if " rw-p " in line and line.rstrip().endswith(" 0")]
    return sum(begin % (64 << 20) == 0 for begin in begins)

before, go = heaps(), threading.Barrier(13)
def work():
    go.wait()
    kept = [torch.ones(n) for n in range(1000, 20000, 500)]
    go.wait()
    go.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
go.wait()
go.wait()
print(heaps() - before)
go.wait()
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
@pytest.mark.parametrize(("variables", "at_least"), [({}, 0), ({"MALLOC_ARENA_MAX": "8"}, 2)])
def test_threads_share_a_heap(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], at_least: int) -> None:
    if not _run(monkeypatch)[0]:
        pytest.skip("another C library, or its allocator is set")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", _HEAPS], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) >= at_least if at_least else int(done.stdout) == 0


def test_a_server_has_one_heap_from_the_first_thread_on() -> None:
    """Libraries begin threads as they are loaded."""
    script = (
        "import sys, threading\nfrom manyhats import cli\n"
        "def called():\n    print('torch' in sys.modules, threading.active_count())\n    raise SystemExit(0)\n"
        "cli.keep_freed_memory = called\nsys.argv = ['manyhats', 'serve']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "1"]

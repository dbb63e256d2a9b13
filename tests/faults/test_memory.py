"""Memory of the machine that runs out for real: a limit on the process's addresses, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_SCRIPT = """
import resource
import sys

import torch
from manyhats.engine.config import EngineConfig
from manyhats.engine.engine import Engine
from manyhats.methods.bound_adapter import BARE
from pathlib import Path
from tests import tiny
from tests.engines import one_pass

torch.set_num_threads(1)
backbone = tiny.load(Path(sys.argv[1]))
engine = Engine(backbone, EngineConfig(1 << 20, queue_per_task=1 << 20, queue_total=1 << 20))

def requests(count):
    return [one_pass(backbone, BARE, ["w1 w2 w3 w4 w5 w6 w7 w8"] * 500, f"t{i}") for i in range(count)]

def run(made):
    engine.submit(made)
    while engine.step():
        pass
    return made

run(requests(1))
right = run(requests(1))[0].sequences[0].pooled
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2])
many = requests(24)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run(many)
errors = [request.future.exception(0) for request in many]
close = all(abs(s.pooled - right).max() < 1e-4 for request in many if not request.future.exception(0)
            for s in request.sequences)
bound = engine.pass_bound
print(sum(error is None for error in errors), close, bound.exceeded > 0, bound.lowered, engine.restarts, sep="|")
print(*{f"{type(error).__name__}: {error}" for error in errors if error is not None}, sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits addresses as Linux does")
def test_a_pass_without_memory_is_run_in_parts(base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    script = tmp_path / "limited.py"
    script.write_text(_SCRIPT)
    ended = subprocess.run(
        [sys.executable, str(script), str(base_folder("bert")), str(48 << 20)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.splitlines()[0] == "24|True|True|True|0", ended.stdout + ended.stderr[-3000:]

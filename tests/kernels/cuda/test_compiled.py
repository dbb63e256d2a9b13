from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program may have on A100, and on H100 and H200
PROGRAMS = {
    "shrink",
    "expand",
    "scale_add",
    "linear",
    "masked_linear",
    "lookup",
    "sparse_add",
    "attend_rows",
    "merge_splits",
    "rms_norm",
}


@pytest.mark.parametrize(
    ("capability", "everything"),
    [
        (90, False),
        pytest.param(80, True, marks=[pytest.mark.slow, pytest.mark.long]),
    ],  # the smaller one is where less fits
)
def test_the_programs_compile_without_a_gpu(
    device: torch.device, capability: int, everything: bool, tmp_path: Path
) -> None:
    """In a process of its own, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.cuda.compiled", str(capability), *(["all"] if everything else [])]
    done = subprocess.run(
        command, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in lines} == PROGRAMS
    assert max(int(shared) for *_, shared in lines) <= SHARED[capability]

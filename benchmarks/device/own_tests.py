"""The project's tests that need a GPU, and those of generation with the tiny backbones on the device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from device.child import Run, attempt, left, report

_FINE = (0, 5)  # the second: no test was chosen
_WORDS = ("PASSED", "FAILED", "ERROR", "SKIPPED")
_ENDED = re.compile(rf"^\[gw\d+\] \[ *\d+%\] ({'|'.join(_WORDS)}) (tests/.*\S)", re.M)
_PROCESSES = 6  # of a machine with a GPU
_PROCESSES_OF_A_TRIAL = 2


def run() -> None:
    """Each in a process of its own."""
    (Run.out / "tests.log").write_text("", encoding="utf-8")
    marked = [str(p) for p in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
    attempt("gpu tests", tests, "pytest -m gpu", 75, "-m", "gpu", *marked)
    some = ["-k", "many_tasks_at_once or pieces"] if Run.small else []
    attempt("api generation", tests, "generation over HTTP, tiny backbones on the device", 45, "-p", "device.on_device",
            "tests/api/test_generation.py", *some)  # fmt: skip
    kernels = ["-k", "gains"] if Run.small else ["-m", "not slow"]
    attempt("kernels", tests, "the kernels' tests", 60, "tests/kernels/cuda", *kernels)
    if not Run.small:
        attempt("mixing", tests, "PEFT's generate, tiny backbones on the device", 40, "-p", "device.on_device",
                "tests/parity/test_generation.py")  # fmt: skip


def tests(name: str, seconds: float, *given: str) -> None:
    """Runs pytest in several processes, and reports what it counts and why tests fail."""
    if left() < 8:
        report(name, "skipped: no time left")
        return
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:benchmark", "--tb=short",
               "-n", str(_PROCESSES_OF_A_TRIAL if Run.small else _PROCESSES), "-W", "default", *given]  # fmt: skip
    seconds = left() - 4 if Run.small else min(seconds, left() - 4)  # a trial's processor may be slow, and has others
    begin = time.time()
    with (Run.out / "tests.log").open("a+", encoding="utf-8", errors="replace") as file:
        file.write(f"== {name}\n")
        file.flush()
        at = file.tell()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"TESTS_DEVICE": Run.device}
        )
        try:
            rc: Any = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            rc = "ended by the time limit"
        file.seek(at)
        log = file.read()
    ended = _ENDED.findall(log)
    counts = {word.lower(): sum(how == word for how, _ in ended) for word in _WORDS}
    failed = [test for how, test in ended if how in ("FAILED", "ERROR")]
    reasons = [line[:160] for line in log.splitlines() if line.startswith("E  ")]
    report(name, {"rc": rc, "seconds": round(time.time() - begin, 1), **counts, "failed tests": failed[:30],
                  "reasons": list(dict.fromkeys(reasons))[:12]})  # fmt: skip
    if rc not in _FINE:
        raise RuntimeError(f"pytest ended with {rc}")

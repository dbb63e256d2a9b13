"""Runs the targets, each in a process of its own, one after the other, and writes down what came of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
_EXECUTIONS = 1_200_000
_SECONDS = 1200.0
_LEAST = 3000  # executions of a target


def run(target: str, executions: int, seconds: float, folder: Path) -> dict[str, Any]:
    """What came of one target: figures, and its finding, where there is one."""
    command = [sys.executable, "-m", "tests.fuzz.worker", target, str(executions), str(seconds), str(folder)]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    path = folder / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"executions": 0}
    figures["seconds"] = round(time.monotonic() - begin, 1)
    for name, stat in (("executions", "number_of_executed_units"), ("new_inputs", "new_units_added")):
        if ended := re.search(rf"stat::{stat}:\s*(\d+)", done.stderr):  # libFuzzer's own count
            figures[name] = int(ended[1])
    if done.returncode:
        figures["finding"] = (done.stdout + done.stderr)[-3000:]
        figures["inputs"] = [str(one) for one in sorted(folder.iterdir()) if re.match("crash|timeout|oom", one.name)]
    return figures


def main() -> int:
    """The exit code: 0, or 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Give every parser anything.")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--runs", type=int, default=_EXECUTIONS, help="executions of all targets together")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="seconds for all together, at most")
    parser.add_argument("--json", type=Path, help="write what came of it there, beside what others are there")
    parser.add_argument("--keep", action="store_true", help="put inputs that reach more into tests/fuzz/corpus")
    parser.add_argument("--artifacts", type=Path, help="keep what breaks a target there")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names = given.targets or list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    results: dict[str, Any] = {}
    begin = time.monotonic()
    for number, name in enumerate(names):
        left = given.seconds - (time.monotonic() - begin)
        executions = max(given.runs * TARGETS[name].share // shares, min(_LEAST, given.runs))
        with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
            folder = (given.artifacts or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            results[name] = run(name, executions, max(left / (len(names) - number) * 2, 10.0), folder)
            if given.keep:
                found = [path.read_bytes() for path in (folder / "found").iterdir()]
                results[name]["kept"] = corpus.keep(name, found)
        print(name, json.dumps({k: v for k, v in results[name].items() if k != "finding"}), flush=True)
        if "finding" in results[name]:
            print(results[name]["finding"], flush=True)
    if given.json and given.json.exists():  # what was not run again stays
        results = json.loads(given.json.read_text())["targets"] | results
    total = sum(one["executions"] for one in results.values())
    findings = [name for name, one in results.items() if "finding" in one]
    print(f"{total} executions in {time.monotonic() - begin:.0f} s; findings: {', '.join(findings) or 'none'}")
    if given.json:
        seconds = round(sum(one["seconds"] for one in results.values()))
        head = {"executions": total, "seconds": seconds, "findings": len(findings)}
        where = {"python": platform.python_version(), "cpus": os.cpu_count()}
        given.json.write_text(json.dumps(head | where | {"targets": results}, indent=2) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs each block in a process of its own, within its time, and writes down what they find."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from device.blocks import BLOCKS, limit
from device.child import POISONED
from device.summary import summary
from device.targets import TIME_LIMIT, verdicts

_IMPORTS = 25  # seconds that the first block waits for its imports
_TRIES = 5


class Report:
    """What has been found so far; on disk after every line."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {"about": about, "blocks": {}}
        self._lock = threading.Lock()
        self.file = (folder / "device.log").open("w", encoding="utf-8")  # the blocks' own output goes there too
        self.write()

    def write(self) -> None:
        """The JSON."""
        with self._lock:
            new = self.folder / "device.json.new"
            new.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
            new.replace(self.folder / "device.json")

    def log(self, line: str, *, echo: bool = False) -> None:
        """A line of the log."""
        with self._lock:
            self.file.write(line.rstrip("\n") + "\n")
            self.file.flush()
        if echo:
            print(line, flush=True)


class Child:
    """A process that has done its imports, or is about to, and waits for the name of its block."""

    def __init__(self, report: Report, options: argparse.Namespace, script: Path) -> None:
        self.report, self.block = report, ""
        self.open: list[str] = []  # cases under way, the innermost last
        self.ended: list[str] = []  # cases that need not run again where the block does
        reading, writing = os.pipe()
        root = script.parents[1]
        paths = [str(root / "server"), str(root), str(root / "clients/python/src"), str(script.parent)]
        if os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        env |= {"TOKENIZERS_PARALLELISM": "false"}
        if options.device != "cuda":
            env |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
        command = [sys.executable, str(script), "--child", str(writing), "--device", options.device]
        command += ["--out", str(report.folder), "--kernels", options.kernels, *(["--small"] if options.small else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=report.file, stderr=subprocess.STDOUT, text=True, env=env,
            pass_fds=(writing,), process_group=0,
        )  # fmt: skip
        os.close(writing)
        self.reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self.reader.start()

    def _read(self, pipe: int) -> None:
        with open(pipe, encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        entry = self.report.data["blocks"][self.block]
        if "begin" in line:
            self.open.append(line["begin"])
            return
        if "end" in line:
            self.open.remove(line["end"])
            if line["over"]:
                self.ended.append(line["end"])
            return
        if "error" in line:
            error = line["error"]
            if all(known["where"] != error["where"] for known in entry["errors"]):
                entry["errors"].append(error)
            self.report.log(f"[{self.block}] FAILED {error['where']}: {error['message']}", echo=True)
        elif "figure" in line:
            entry["figures"][line["figure"]] = line["value"]
        else:
            entry["results"][line["key"]] = line["value"]
            self.report.log(f"[{self.block}] {line['key']}: {json.dumps(line['value'])}")
        self.report.write()

    def run(self, block: str, done: list[str], seconds: float) -> str:
        """`ok`, `poisoned`, `timeout` or `crashed`."""
        self.block = block
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"block": block, "done": done, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            return "timeout"
        except OSError:  # the process ended before it received the name
            status = self.process.wait()
        self.reader.join(5)
        return "ok" if status == 0 else "poisoned" if status == POISONED else f"crashed ({status})"

    def stop(self) -> None:
        """It and what it started: they are a group of their own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            with suppress(subprocess.TimeoutExpired):  # one that hangs inside the driver may outlive this
                self.process.wait(timeout=10)


def _commit(root: Path) -> str:
    given = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(given, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return found or os.environ.get("COMMIT", "unknown")


def parent(options: argparse.Namespace, script: Path) -> int:
    """Runs all requested blocks, one after another."""
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "commit": _commit(script.parents[1]), "device": options.device, "small": options.small,
        "blocks": options.blocks, "total_limit_s": options.total,
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip
    report = Report(options.out.resolve(), about)
    chosen = options.blocks.split(",")
    unknown = [block for block in chosen if block not in BLOCKS]
    if unknown:
        print(f"there is no block '{unknown[0]}'; there are {', '.join(BLOCKS)}", file=sys.stderr)
        return 2
    for block in chosen:
        entry = {"what": BLOCKS[block].what, "status": "not reached", "results": {}, "figures": {}, "errors": []}
        report.data["blocks"][block] = entry
    waiting = [Child(report, options, script)]
    try:
        for i, block in enumerate(chosen):
            begin = time.time()
            remaining = options.total - (begin - options.started)
            end = begin + limit(block, chosen[i + 1 :], remaining, options.slack) + (_IMPORTS if i == 0 else 0)

            def left(end: float = min(end, options.started + options.total)) -> float:
                return end - time.time()

            done: list[str] = []
            entry = report.data["blocks"][block]
            for tries in range(_TRIES):
                if left() < 4:
                    entry["status"] = entry["status"] if tries else "skipped: no time left"
                    break
                process = waiting.pop() if waiting else Child(report, options, script)
                if i + 1 < len(chosen):
                    waiting = [Child(report, options, script)]  # the next does its imports meanwhile
                again = _try(process, block, done, left(), entry)
                if again is None:
                    break
                done = again
            if entry["status"] == "ok" and any(error["where"] == f"block {block}" for error in entry["errors"]):
                entry["status"] = "failed"
            entry["seconds"] = round(time.time() - begin, 1)
            report.log(f"== block {block} ({entry['what']}): {entry['status']}, {entry['seconds']} s, "
                       f"{len(entry['results'])} results, {len(entry['errors'])} failures", echo=True)  # fmt: skip
            report.write()
    finally:
        for process in waiting:
            process.stop()
        about["seconds"] = round(time.time() - options.started, 1)
        report.data["targets"] = verdicts(report.data)
        report.write()
    text = summary(report.data)
    report.log(text)
    print(text[-9000:], flush=True)
    return 0


def _try(process: Child, block: str, done: list[str], seconds: float, entry: dict[str, Any]) -> list[str] | None:
    """One run of a block; the cases that another one leaves out, or None where there is none to be."""
    entry["status"] = status = process.run(block, done, seconds)
    if status == "timeout":
        entry["errors"].append({"where": (process.open or ["?"])[-1], "message": TIME_LIMIT})
    if status in ("ok", "timeout"):
        return None
    where = (process.open or ["before its first case"])[-1]
    if all(error["where"] != where for error in entry["errors"]):
        entry["errors"].append({"where": where, "message": f"the process was lost here: {status}"})
    if len(process.open) < 2:  # the block itself cannot begin
        return None
    return [*done, *process.ended, where]

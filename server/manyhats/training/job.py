"""One training from the data files to a finished adapter folder."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.baselines import Baseline
from manyhats.core.kinds.examples import Columns
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.registry import TRAININGS
from manyhats.core.kinds.training import KindTraining
from manyhats.errors import InvalidRequest, ManyhatsError, WrongUsage
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.recipe import Schedule
from manyhats.training import baselines, data
from manyhats.training.batches import BATCH_TOKENS, EncodedDataset, batch_size_for, encode_dataset, shuffled_batches
from manyhats.training.card import Report, batch_text, model_card
from manyhats.training.checkpoints import Checkpoints, storage_full
from manyhats.training.curves import CURVES, plot
from manyhats.training.data import Dataset
from manyhats.training.evaluation import evaluate
from manyhats.training.files import sha256_of
from manyhats.training.hints import SEEN, Facts, next_steps, unbeaten
from manyhats.training.objective import balanced
from manyhats.training.progress import Display
from manyhats.training.recipes import FULL, FULL_NAME, recipe_for, schedule_for
from manyhats.training.trainer import Trainer

CARD = "README.md"

# The tolerance between the reloaded adapter's score and the trained one's, for another order of summation.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained. `schedule`: fields that override the recipe's `Schedule`.

    `class_weights`: `balanced`, or the weight of each label (1 for those not named). `full`: whether to compare with
    full fine-tuning. `resume`: whether to continue a killed run of the same job.
    """

    task: str
    method: str  # a recipe's name
    kind: str  # the name of one of `TRAININGS`
    data: Path
    out: Path
    validation: Path | None = None
    test: Path | None = None
    columns: Columns = field(default_factory=Columns)
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    template: str | None = None  # of prompts, for kinds with one
    class_weights: Literal["balanced"] | Mapping[str, float] | None = None
    precision: Literal["no", "bf16"] = "no"
    full: bool = False
    resume: bool = False
    baselines: tuple[Baseline, ...] = ()  # of an earlier job on the same data; else they are computed
    notes: tuple[str, ...] = ()  # for the model card

    def chosen_schedule(self) -> Schedule:
        """Raises InvalidRequest for a method that cannot be trained."""
        recipe_for(self.method)
        return replace(schedule_for(self.method, self.options), **self.schedule)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint, next to the output folder; hidden from a server that watches its parent."""
        return self.out.parent / f".{self.out.name}.checkpoint"


def run(job: Job, backbone: Backbone, console: Console) -> Report:
    """Trains, tests, writes the folder `job.out` and reads it back.

    Raises InvalidRequest for data or options that cannot be used, ConfigurationError without scikit-learn, StorageFull
    on a full disk.
    """
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise WrongUsage(f"'{job.out}' exists and is not an empty folder", param="out")
    kind = TRAININGS[job.kind]
    _check_template(job, kind)
    schedule = job.chosen_schedule()
    dataset = data.load(kind, job.columns, job.data, job.validation, job.test, seed=schedule.seed)
    schedule = _with_batch_size(schedule, job, dataset)
    trainer = _trainer(job, job.method, schedule, dataset, backbone)
    max_tokens = _max_tokens(job, backbone, trainer.position_offset)
    encoded = encode_dataset(dataset, backbone, max_tokens, job.template)
    for note in dataset.notes:
        console.print(note, highlight=False, soft_wrap=True)
    checkpoints = Checkpoints(job.checkpoint, _identity(job, schedule, dataset, backbone, max_tokens))
    if job.checkpoint.exists() and not job.resume:
        raise InvalidRequest(
            f"'{job.checkpoint}' is left of a run that was ended; go on with --resume, or remove it", param="resume"
        )
    if job.resume and not job.checkpoint.exists():
        console.print("There is no checkpoint; training begins anew.", highlight=False)
    found = list(job.baselines) or baselines.of(backbone, kind, encoded, schedule.seed)
    if job.full and not job.baselines:
        found.append(Baseline(FULL_NAME, _full(job, dataset, encoded, backbone)))
    console.print(
        f"{len(encoded.train)} rows to train, {len(encoded.validation)} to validate, {len(encoded.test)} to test; "
        + ", ".join(f"{name} {value}" for name, value in found)
        + f"; {batch_text(schedule, len(encoded.train), _from_rows(job, schedule))}",
        highlight=False,
        soft_wrap=True,
    )
    epochs = schedule.epochs * trainer.trainable.stages
    with Display(console, epochs, _steps(encoded, schedule)) as display:
        outcome = trainer.run(encoded.train, encoded.validation, display, checkpoints)
    if outcome.stopped:
        console.print(outcome.stopped, highlight=False, soft_wrap=True)
    adapter = trainer.adapter(_settings(job, dataset, backbone, max_tokens))
    test = evaluate(backbone, trainer.bound(), trainer.kind, encoded.test)

    def report(nbytes: int) -> Report:
        return Report(
            task=job.task,
            method=job.method,
            options={name: value for name, value in job.options.items() if name != "members"},
            rank=adapter.rank,
            backbone=backbone.name,
            backbone_sha256=backbone.sha256,
            dataset=dataset,
            truncated=encoded.truncated,
            max_tokens=max_tokens,
            schedule=schedule,
            outcome=outcome,
            test=test,
            baselines=tuple(found),
            parameters=trainer.parameters,
            nbytes=nbytes,
            machine=_machine(backbone.device),
            notes=job.notes,
            from_rows=_from_rows(job, schedule),
        )

    if not trainer.is_main_process:  # only one of several processes writes
        return report(0)

    with storage_full(job.out.parent):
        job.out.parent.mkdir(parents=True, exist_ok=True)
        # A server may watch the parent folder, so the folder must appear there complete.
        with tempfile.TemporaryDirectory(prefix=".training-", dir=job.out.parent) as temporary:
            folder = Path(temporary) / "adapter"
            folder.mkdir()
            write_adapter(adapter, folder, backbone)
            _check_reloaded(folder, backbone, kind, encoded, test)
            found_out = report(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            (folder / CARD).write_text(model_card(found_out), encoding="utf-8")
            plot(outcome, test.name, folder / CURVES)
            if job.out.exists():
                job.out.rmdir()
            shutil.move(folder, job.out)
    checkpoints.remove()
    return replace(found_out, hints=_hints(found_out, job, trainer, encoded))


def _hints(report: Report, job: Job, trainer: Trainer, encoded: EncodedDataset) -> tuple[str, ...]:
    """What to try where a simple baseline is not beaten."""
    if not unbeaten(report):
        return ()
    facts = Facts(
        seen=evaluate(trainer.backbone, trainer.bound(), trainer.kind, encoded.train[:SEEN]),
        inputs=len(encoded.train) + len(encoded.validation) + len(encoded.test),
        longest=_longest(trainer.backbone, trainer.position_offset),
        weighted=job.class_weights is not None,
    )
    return tuple(next_steps(report, facts))


def _trainer(job: Job, method: str, schedule: Schedule, dataset: Dataset, backbone: Backbone) -> Trainer:
    options = dict(job.options) if method == job.method else {}
    if "members" in options:
        folders = _member_folders(options["members"])
        options["members"] = [one for folder in folders for one in read_adapter(folder, backbone).components]
    return Trainer(
        backbone,
        method,
        job.kind,
        len(dataset.labels),
        schedule,
        options,
        class_weights=_class_weights(job, dataset),
        precision=job.precision,
    )


def _member_folders(given: Any) -> list[Path]:
    """The folders of a fusion's members."""
    folders = [Path(name.strip()) for name in given.split(",")] if isinstance(given, str) else list(map(Path, given))
    for folder in folders:
        if not folder.is_dir():
            raise WrongUsage(f"there is no adapter folder '{folder}'", param="members")
    return folders


def _class_weights(job: Job, dataset: Dataset) -> list[float] | None:
    if job.class_weights is None:
        return None
    if not dataset.kind.labelled:
        raise WrongUsage(f"class weights mean nothing for the kind {job.kind}", param="class_weights")
    if job.class_weights == "balanced":
        return balanced([dataset.count(label) for label in dataset.labels])
    unknown = [label for label in job.class_weights if label not in dataset.labels]
    if unknown:
        raise InvalidRequest(
            f"there is no label '{unknown[0]}' to weigh; the labels are {', '.join(dataset.labels)}",
            param="class_weights",
        )
    return [job.class_weights.get(label, 1.0) for label in dataset.labels]


def _with_batch_size(schedule: Schedule, job: Job, dataset: Dataset) -> Schedule:
    """The schedule with the job's batch size, or, where it has neither that nor a batch's tokens, with that for as many
    rows."""
    size = job.schedule.get("batch_size")
    if "batch_tokens" in job.schedule:
        return replace(schedule, batch_size=size, batch_tokens=job.schedule["batch_tokens"])
    if size is None and not dataset.kind.batch_from_rows:
        return schedule
    return replace(schedule, batch_size=size or batch_size_for(len(dataset.train)), batch_tokens=BATCH_TOKENS)


def _from_rows(job: Job, schedule: Schedule) -> bool:
    return schedule.batch_size is not None and "batch_size" not in job.schedule


def _full(job: Job, dataset: Dataset, encoded: EncodedDataset, backbone: Backbone) -> Score:
    """Full fine-tuning on the same data, with its own recipe."""
    schedule = _with_batch_size(replace(schedule_for(FULL), seed=job.chosen_schedule().seed), job, dataset)
    trainer = _trainer(job, FULL, schedule, dataset, backbone)
    trainer.run(encoded.train, encoded.validation)
    return evaluate(backbone, trainer.bound(), trainer.kind, encoded.test)


def _identity(
    job: Job, schedule: Schedule, dataset: Dataset, backbone: Backbone, max_tokens: int
) -> dict[str, str | int]:
    """What a run must have in common with the one that it resumes."""
    options = {name: str(value) for name, value in job.options.items()}
    if "members" in job.options:
        options["members"] = " ".join(sha256_of(folder) for folder in _member_folders(job.options["members"]))
    return {
        "task": job.task,
        "method": job.method,
        "kind": job.kind,
        "options": repr(sorted(options.items())),
        "schedule": repr(schedule),
        "data": " ".join(source.sha256 for source in dataset.sources),
        "columns": repr(job.columns),
        "backbone": backbone.sha256,
        "max_tokens": max_tokens,
        "template": job.template or "",
        "class_weights": repr(job.class_weights),
        "precision": job.precision,
    }


def _settings(job: Job, dataset: Dataset, backbone: Backbone, max_tokens: int) -> dict[str, Any]:
    """The settings of the trained task."""
    settings: dict[str, Any] = {}
    if dataset.labels:
        settings["labels"] = dataset.labels
    settings |= dataset.kind.settings(backbone)
    if job.template is not None:
        settings["template"] = job.template
    if job.max_tokens is not None and dataset.kind.serves_max_tokens:
        settings |= {"max_tokens": max_tokens, "overflow": "truncate"}
    return settings


def _check_template(job: Job, kind: KindTraining) -> None:
    if job.template is None:
        return
    if not kind.takes_template or "{text}" not in job.template:
        names = " or ".join(name for name, one in TRAININGS.items() if one.takes_template)
        raise WrongUsage(f"a template is for the kind {names}, and contains {{text}}", param="template")


def _machine(device: torch.device) -> str:
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"on a CPU with {threads} thread{'s' if threads > 1 else ''}"
    return f"on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"on {device.type}"


def _steps(encoded: EncodedDataset, schedule: Schedule) -> int:
    """About how many steps an epoch has; it varies slightly with the shuffle."""
    batches = shuffled_batches(
        encoded.train, schedule.batch_tokens, torch.Generator().manual_seed(0), schedule.batch_size
    )
    return math.ceil(len(batches) / schedule.accumulate)


def _longest(backbone: Backbone, position_offset: int) -> int:
    return min(backbone.max_tokens, backbone.tokenizer.maximum) - position_offset


def _max_tokens(job: Job, backbone: Backbone, position_offset: int) -> int:
    maximum = _longest(backbone, position_offset)
    if job.max_tokens is None:
        return maximum
    if not 3 <= job.max_tokens <= maximum:
        raise WrongUsage(
            f"max-tokens must lie between 3 and {maximum} for the method {job.method} on this backbone, "
            f"not {job.max_tokens}",
            param="max_tokens",
        )
    return job.max_tokens


def _check_reloaded(
    folder: Path, backbone: Backbone, kind: KindTraining, encoded: EncodedDataset, trained: Score
) -> None:
    reloaded: Adapter = read_adapter(folder, backbone)
    again = evaluate(backbone, reloaded.bind(backbone), kind, encoded.test)
    if abs(again.value - trained.value) > _TOLERANCE * max(abs(trained.value), 1.0):
        raise ManyhatsError(
            f"the adapter scored {trained} when it was trained, but {again} after it was written and read back; "
            "this is a fault of manyhats, please report it"
        )

"""The model card: what an adapter does, how well, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from manyhats._version import __version__
from manyhats.core.history import FIELD
from manyhats.core.kinds.baselines import Baseline
from manyhats.core.kinds.metrics import Score
from manyhats.methods.recipe import Schedule
from manyhats.training.curves import history
from manyhats.training.data import Dataset
from manyhats.training.trainer import Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a training. Scores are on the test data unless stated otherwise."""

    task: str
    method: str
    options: Mapping[str, Any]
    rank: int | None
    backbone: str
    backbone_sha256: str
    dataset: Dataset
    truncated: int  # inputs that were longer than max_tokens
    max_tokens: int
    schedule: Schedule
    outcome: Outcome
    test: Score
    baselines: tuple[Baseline, ...]  # to compare with
    parameters: tuple[int, int]  # method, head
    nbytes: int  # of the adapter's files
    machine: str  # what it was trained on
    notes: tuple[str, ...] = ()  # further sentences for the card, such as where the data comes from
    from_rows: bool = False  # whether the batch size comes from the number of rows
    hints: tuple[str, ...] = ()  # what to try next, where a simple baseline is not beaten


def scores(report: Report) -> list[Baseline]:
    """The rows of the table of results."""
    return [*report.baselines, Baseline(f"this adapter ({report.method})", report.test)]


def interval_text(score: Score) -> str:
    """The 95 % interval, or a dash."""
    if score.interval is None:
        return "-"
    low, high = map(score.format_value, score.interval)
    return f"{low.removesuffix(' %')} to {high}"


def batch_text(schedule: Schedule, rows: int, from_rows: bool) -> str:
    """How large a batch is, and where that comes from."""
    if schedule.batch_size is None:
        text = f"batches of at most {schedule.batch_tokens} tokens"
    else:
        text = f"batch size {schedule.batch_size}" + (f" (from {rows} rows)" if from_rows else "")
    return text if schedule.accumulate == 1 else f"{text}, {schedule.accumulate} batches a step"


def model_card(report: Report) -> str:
    """The card in Markdown, with the YAML head that model hubs read."""
    dataset, schedule, outcome = report.dataset, report.schedule, report.outcome
    table = "\n".join(f"| {name} | {value} | {interval_text(value)} |" for name, value in scores(report))
    files = "\n".join(f"| `{s.name}` | {s.rows} | `{s.sha256}` |" for s in dataset.sources)
    notes = "\n".join(f"- {note}" for note in _notes(report))
    options = ", ".join(f"{name} {value}" for name, value in report.options.items()) or "defaults"
    size = "" if report.rank is None else f", size {report.rank}"
    labels = f"Labels ({len(dataset.labels)}): {', '.join(f'`{_plain(x)}`' for x in dataset.labels)}\n"
    return f"""---
{_head(report)}
---

# {_plain(report.task)}

An adapter for Manyhats: the method `{report.method}` ({options}{size}) on the frozen backbone `{report.backbone}`.
Kind: `{dataset.kind.name}`. {labels if dataset.labels else ""}
## Result on held-out data

{report.test.name[0].upper() + report.test.name[1:]} over {report.test.count} {dataset.kind.unit}\
{", with the 95 % interval" if report.test.interval else ""}:

| | {report.test.name} | 95 % interval |
|---|---|---|
{table}

{notes}

![loss and validation metric](curves.png)

## Data

| file | rows | sha256 |
|---|---|---|
{files}

{len(dataset.train)} rows to train, {len(dataset.validation)} to choose the best epoch, {len(dataset.test)} to test.

## Training

| | |
|---|---|
| trained numbers | {report.parameters[0]:,} in the method, {report.parameters[1]:,} in the head |
| files | {report.nbytes:,} bytes |
| epochs | {outcome.epochs}, the best was {outcome.best_epoch} ({outcome.validation.name} {outcome.validation} \
on the validation data) |
| steps | {outcome.steps}, {batch_text(schedule, len(dataset.train), report.from_rows)} |
| time | {outcome.seconds:.0f} s, {report.machine} |
| AdamW | learning rate {schedule.learning_rate:g}, of the head {schedule.head_learning_rate:g}, weight decay \
{schedule.weight_decay:g} |
| seed | {schedule.seed} |
| most tokens of an input | {report.max_tokens} |
| versions | manyhats {__version__}, torch {torch.__version__}, transformers {transformers.__version__} |
| backbone's sha256 | `{report.backbone_sha256}` |
"""


def _head(report: Report) -> str:
    """The YAML head. Values are written as JSON, which is YAML too, so that no name can end its line."""
    pipeline = report.dataset.kind.served_as.libraries.pipeline
    lines: dict[str, Any] = {
        "base_model": report.backbone,
        "library_name": "manyhats",
        "pipeline_tag": pipeline,
        "tags": ["manyhats", "adapter", report.method],
        "model-index": [
            {
                "name": report.task,
                "results": [
                    {
                        "task": {"type": pipeline},
                        "dataset": {"name": report.dataset.sources[0].name, "type": "file"},
                        "metrics": [
                            {
                                "type": report.test.metric.hub_name,
                                "value": round(report.test.value, 6),
                            }
                        ],
                    }
                ],
            }
        ],
        FIELD: history(report.outcome, report.test.metric).model_dump(),
    }
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items())


def _notes(report: Report) -> list[str]:
    notes = [*report.notes, *report.dataset.notes, *report.dataset.kind.notes]
    if report.truncated:
        one = "1 input was longer than {} tokens and was cut."
        many = "{1} inputs were longer than {0} tokens and were cut."
        notes.append((one if report.truncated == 1 else many).format(report.max_tokens, report.truncated))
    if report.outcome.stopped:
        notes.append(f"Training stopped early: {report.outcome.stopped}")
    notes.append("The test data played no part in training or in choosing the epoch.")
    return notes


def _plain(text: str) -> str:
    """A text with Markdown's special characters escaped."""
    return " ".join(text.replace("`", "'").replace("|", "/").split())

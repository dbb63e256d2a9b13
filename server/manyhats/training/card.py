"""The model card: what an adapter does, how well, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from manyhats._version import __version__
from manyhats.methods.recipe import Schedule
from manyhats.training.data import Dataset
from manyhats.training.metrics import Score
from manyhats.training.trainer import Outcome

_PIPELINES = {
    "classify": "text-classification",
    "multilabel": "text-classification",
    "span": "question-answering",
    "embed": "sentence-similarity",
    "tokens": "token-classification",
    "regress": "text-classification",
    "generate": "text-generation",
}
_METRICS = {
    "classify": "accuracy",
    "multilabel": "f1",
    "tokens": "accuracy",
    "regress": "mse",
    "span": "exact_match",
    "embed": "accuracy",
    "generate": "loss",
}


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known about a trained adapter. Scores are on the test data unless they say otherwise."""

    task: str
    method: str
    options: Mapping[str, Any]
    rank: int | None
    backbone: str
    backbone_sha256: str
    dataset: Dataset
    cut: int  # inputs that were longer than max_tokens
    max_tokens: int
    schedule: Schedule
    outcome: Outcome
    test: Score
    baselines: tuple[tuple[str, Score], ...]  # what it must beat
    parameters: tuple[int, int]  # method, head
    nbytes: int  # of the adapter's files
    machine: str  # what it was trained on
    notes: tuple[str, ...] = ()  # further sentences for the card, such as where the data comes from


def scores(report: Report) -> list[tuple[str, Score]]:
    """The rows of the table of results."""
    return [*report.baselines, (f"this adapter ({report.method})", report.test)]


def interval_text(score: Score) -> str:
    """The 95 % interval, or a dash."""
    if score.interval is None:
        return "-"
    low, high = map(score.shown, score.interval)
    return f"{low.removesuffix(' %')} to {high}"


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
Kind: `{dataset.kind}`. {labels if dataset.labels else ""}
## Result on held-out data

{report.test.name[0].upper() + report.test.name[1:]} over {report.test.count} {_places(report)}\
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
| steps | {outcome.steps}, of at most {schedule.accumulate * schedule.batch_tokens} tokens each |
| time | {outcome.seconds:.0f} s, {report.machine} |
| AdamW | learning rate {schedule.learning_rate:g}, of the head {schedule.head_learning_rate:g}, weight decay \
{schedule.weight_decay:g} |
| seed | {schedule.seed} |
| most tokens of an input | {report.max_tokens} |
| versions | manyhats {__version__}, torch {torch.__version__}, transformers {transformers.__version__} |
| backbone's sha256 | `{report.backbone_sha256}` |
"""


def _head(report: Report) -> str:
    """JSON values are YAML values, so that no name can break out of its line."""
    pipeline = _PIPELINES[report.dataset.kind]
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
                                "type": _METRICS[report.dataset.kind],
                                "value": round(report.test.value, 6),
                            }
                        ],
                    }
                ],
            }
        ],
    }
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items())


def _places(report: Report) -> str:
    return {"tokens": "words", "generate": "tokens"}.get(report.dataset.kind, "inputs")


def _notes(report: Report) -> list[str]:
    notes = [*report.notes, *report.dataset.notes]
    if report.dataset.kind == "tokens":
        notes.append("Words of one sentence are not independent, so the interval is narrower than it should be.")
    if report.cut:
        one = "1 input was longer than {} tokens and was cut."
        many = "{1} inputs were longer than {0} tokens and were cut."
        notes.append((one if report.cut == 1 else many).format(report.max_tokens, report.cut))
    if report.outcome.stopped:
        notes.append(f"Training stopped early: {report.outcome.stopped}")
    notes.append("The test data played no part in training or in choosing the epoch.")
    return notes


def _plain(text: str) -> str:
    """A name that cannot start or end any Markdown."""
    return " ".join(text.replace("`", "'").replace("|", "/").split())

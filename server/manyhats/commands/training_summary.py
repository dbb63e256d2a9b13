"""The results of a training as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhats.core.kinds.metrics import Score
    from manyhats.training.card import Report


def summary(report: Report, out: Path) -> dict[str, Any]:
    """What was trained, and how it compares on the held-out data. `parameters`: that were trained. `hints`: what to try
    next, where a baseline is not beaten."""
    outcome = report.outcome
    method, head = report.parameters
    return {
        "task": report.task,
        "method": report.method,
        "kind": report.dataset.kind.name,
        "out": str(out),
        "metric": report.test.name,
        "held_out": report.test.count,
        "score": _score(report.test),
        "baselines": {one.name: _score(one.score) for one in report.baselines},
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "seconds": round(outcome.seconds, 3),
        "parameters": {"method": method, "head": head},
        "bytes": report.nbytes,
        "batch_size": report.schedule.batch_size,
        "hints": list(report.hints),
    }


def sweep_summary(task: str, out: Path) -> dict[str, Any]:
    """The lines of a sweep's table."""
    from manyhats.training.sweep import FILE

    return {"task": task, "out": str(out), "results": json.loads((out / FILE).read_text(encoding="utf-8"))}


def _score(score: Score) -> dict[str, Any]:
    interval = score.interval
    return {"value": score.value, "interval": None if interval is None else list(interval)}

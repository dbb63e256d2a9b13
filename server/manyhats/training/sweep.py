"""Several methods on the same task, and one table of how they compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyhats.backbone import Backbone
from manyhats.core.kinds.baselines import Baseline
from manyhats.errors import WrongUsage
from manyhats.training import hints
from manyhats.training.card import Report, interval_text, scores
from manyhats.training.job import Job, run
from manyhats.training.recipes import RECIPES, recipe_for

FILE = "sweep.json"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table, as displayed; a baseline's last three fields are empty."""

    method: str
    score: str
    interval: str
    trained: str = ""
    size: str = ""
    seconds: str = ""


def named(methods: str) -> list[str]:
    """Comma-separated names of recipes, or `all`. Raises WrongUsage for an unknown one."""
    if methods == "all":
        return [name for name, one in RECIPES.items() if not one.baseline and one.needs is None and not one.general]
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        recipe_for(name)
    if len(set(names)) != len(names) or not names:
        raise WrongUsage("--sweep takes names of methods, each once, with commas between them", param="sweep")
    return names


def sweep(job: Job, methods: Sequence[str], backbone: Backbone, console: Console) -> Table:
    """Trains every method into a folder of its own below `job.out`. With `job.resume` finished ones are kept.

    The options and the schedule of the job are for each of them.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    done = _read(job.out / FILE) if job.resume else {}
    baselines: tuple[Baseline, ...] = ()
    for method in methods:
        out = job.out / method
        if method in done and out.is_dir():
            continue
        console.print(method, style="bold", highlight=False)
        resume = job.resume and replace(job, out=out).checkpoint.exists()
        own = replace(job, method=method, out=out, resume=resume, baselines=baselines)
        report = run(own, backbone, console)
        baselines = report.baselines
        hints.show(report, console)
        if not done:
            for name, score in report.baselines:
                done[name] = Line(name, str(score), interval_text(score))
        done[method] = _line(report)
        (job.out / FILE).write_text(json.dumps([asdict(line) for line in done.values()], indent=1) + "\n")
    return _table(job, list(done.values()), methods)


def _read(path: Path) -> dict[str, Line]:
    if not path.exists():
        return {}
    lines = [Line(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    return {line.method: line for line in lines}


def _line(report: Report) -> Line:
    _, own = scores(report)[-1]
    return Line(
        report.method,
        str(own),
        interval_text(own),
        f"{sum(report.parameters):,}",
        f"{report.nbytes / 1000:,.0f} kB",
        f"{report.outcome.seconds:.0f} s",
    )


def _table(job: Job, lines: Sequence[Line], methods: Sequence[str]) -> Table:
    table = Table(title=f"{job.task}: on held-out data")
    for name in ("", "score", "95 % interval", "trained", "files", "training"):
        table.add_column(name, justify="left" if not name else "right")
    for line in lines:
        if line.method in methods or not line.trained:
            table.add_row(line.method, line.score, line.interval, line.trained, line.size, line.seconds)
    return table

"""The command `manyhats train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from manyhats.commands import remote
from manyhats.errors import InvalidRequest

if TYPE_CHECKING:
    from manyhats.training.card import Report


class Kind(StrEnum):
    """What the task answers: a class for a text, a tag for every word, a number, or a text."""

    classify = "classify"
    tokens = "tokens"
    regress = "regress"
    generate = "generate"


def train(
    backbone: Annotated[str, typer.Option(help="the frozen model: a folder, a hub id, or package:NAME")],
    task: Annotated[str, typer.Option(help="the task's public name")],
    method: Annotated[str, typer.Option(help="lora, bottleneck, prefix or mask")],
    data: Annotated[Path, typer.Option(help="training data: a .csv or .jsonl file")],
    out: Annotated[Path, typer.Option(help="folder to write; must be empty or not there")],
    validation: Annotated[
        Path | None, typer.Option(help="data to choose the best epoch; without it a tenth of --data")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="held-out data; without it a tenth of --data")] = None,
    kind: Annotated[Kind, typer.Option(help="what the task answers")] = Kind.classify,
    text: Annotated[str, typer.Option(help="column of the text")] = "text",
    label: Annotated[str, typer.Option(help="column of the label, number or answer")] = "label",
    template: Annotated[
        str | None, typer.Option(help="of prompts with {text} in it, for --kind generate; is served with the task")
    ] = None,
    text_pair: Annotated[str | None, typer.Option(help="column of a second text")] = None,
    tokens: Annotated[str, typer.Option(help="column of the words, for --kind tokens")] = "tokens",
    tags: Annotated[str, typer.Option(help="column of the words' tags, for --kind tokens")] = "tags",
    option: Annotated[
        list[str] | None, typer.Option(help="an option of the method as NAME=VALUE; may be given again")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="most passes over the data")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="peak, of the method's weights")] = None,
    head_learning_rate: Annotated[float | None, typer.Option(min=0.0, help="peak, of the head")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="most tokens of one step")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longer inputs are cut, here and when serving")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="epochs without a better score until it stops")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the split, the fresh weights and the order")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    push: Annotated[str | None, typer.Option(help="upload to the server at this URL when done")] = None,
    key: Annotated[str, typer.Option(envvar="MANYHATS_KEY", help="API key for --push", show_default=False)] = "",
) -> None:
    """Trains an adapter for a task, compares it with simple baselines, and writes it with its model card."""
    # Here, so that commands that only talk to a server start quickly.
    from manyhats.backbone import Backbone
    from manyhats.registry.names import check_name
    from manyhats.training.data import Columns
    from manyhats.training.job import Job, run

    console = Console()
    given = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "head_learning_rate": head_learning_rate,
        "batch_tokens": batch_tokens,
        "patience": patience,
        "seed": seed,
    }
    check_name(task, write=True)
    job = Job(
        task=task,
        method=method,
        kind=kind.value,
        data=data,
        validation=validation,
        test=test,
        columns=Columns(text=text, label=label, text_pair=text_pair, tokens=tokens, tags=tags),
        options=parse_options(option or []),
        schedule={name: value for name, value in given.items() if value is not None},
        max_tokens=max_tokens,
        template=template,
        out=out,
    )
    job.chosen_schedule()  # a misspelt method is said before the model is loaded
    report = run(job, Backbone.load(backbone, device=device, dtype="float32"), console)
    console.print(_table(report))
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
    if push is not None:
        remote.push(task, out, url=push, key=key)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as a mapping. Raises InvalidRequest for anything else."""
    options = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise InvalidRequest(f"--option takes NAME=VALUE, not '{pair}'", param="option")
        options[name.strip()] = value.strip()
    return options


def _table(report: Report) -> Table:
    from manyhats.training.card import interval_text, scores

    table = Table(title=f"{report.task}: {report.test.name} on {report.test.count} held out")
    table.add_column("")
    table.add_column(report.test.name, justify="right")
    table.add_column("95 % interval", justify="right")
    for name, score in scores(report):
        table.add_row(name, str(score), interval_text(score))
    return table

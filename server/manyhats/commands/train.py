"""The command `manyhats train`."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from manyhats.commands import remote
from manyhats.commands.connection import own_name, plain, print_json
from manyhats.commands.training_summary import summary, sweep_summary
from manyhats.core.kinds.examples import Columns
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import WrongUsage
from manyhats.training.libraries import TRAINING, require

if TYPE_CHECKING:
    from manyhats.training.card import Report


# What the task answers: the choices of `--kind`.
Kind = StrEnum("Kind", list(TRAININGS))  # type: ignore[misc]
_CLASSIFY = Kind("classify")
# What the kinds that always have a second text call its column.
_PAIR_COLUMNS = {name: kind.columns(Columns()).get("pair") for name, kind in TRAININGS.items()}
_PAIRS = ", of ".join(f"{name}: {column}" for name, column in _PAIR_COLUMNS.items() if column is not None)


class Precision(StrEnum):
    """Of the pass in training: float32 throughout, or bfloat16 by autocast."""

    no = "no"
    bf16 = "bf16"


def _configured(context: typer.Context, path: Path | None) -> Path | None:
    """Takes a recipe's fields for those that the command line does not give."""
    if path is None:
        return None
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"'{path}' cannot be read as TOML: {error}") from None
    known = {p.name: p for p in context.command.params if p.name not in (None, "config", "help")}
    options = fields.pop("options", {})
    for name in fields:
        if name.replace("-", "_") not in known:
            names = ", ".join(sorted(n.replace("_", "-") for n in known if n and n != "option"))
            raise typer.BadParameter(f"'{path}' has the field '{name}'; known are {names}, and a table [options]")
    defaults = {name.replace("-", "_"): value for name, value in fields.items()}
    if options:
        defaults["option"] = [f"{name}={_as_text(value)}" for name, value in options.items()]
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def train(
    backbone: Annotated[str, typer.Option(help="the frozen model: a folder, a hub id, or package:NAME")],
    task: Annotated[str, typer.Option(help="the task's public name")],
    data: Annotated[
        Path, typer.Option(help="training data: .csv, .jsonl, .parquet, or a folder saved by the library datasets")
    ],
    out: Annotated[Path, typer.Option(help="folder to write; must be empty or not there")],
    method: Annotated[
        str | None, typer.Option(help="lora, houlsby, prefix, mask, ...; an unknown name lists them all")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="in place of --method: several, with commas between, or all; a folder each, and a table"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_configured,
            help="a recipe: TOML with these options, and a table called options for the method's",
        ),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="data to choose the best epoch; without it a tenth of --data")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="held-out data; without it a tenth of --data")] = None,
    kind: Annotated[Kind, typer.Option(help="what the task answers")] = _CLASSIFY,
    text: Annotated[str, typer.Option(help="column of the text, or of the question")] = "text",
    label: Annotated[str, typer.Option(help="column of the label, labels, number or answer")] = "label",
    template: Annotated[
        str | None, typer.Option(help="of prompts with {text} in it, for --kind generate; is served with the task")
    ] = None,
    text_pair: Annotated[str | None, typer.Option(help=f"column of a second text; of --kind {_PAIRS}")] = None,
    answer_start: Annotated[
        str, typer.Option(help="column of the character where the answer starts, for --kind span")
    ] = "answer_start",
    tokens: Annotated[str, typer.Option(help="column of the words, for --kind tokens")] = "tokens",
    tags: Annotated[str, typer.Option(help="column of the words' tags, for --kind tokens")] = "tags",
    class_weights: Annotated[
        str | None, typer.Option(help="balanced, or LABEL=NUMBER,...: how much each label counts in the loss")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="an option of the method as NAME=VALUE; may be given again")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="most passes over the data (in each stage)")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="peak, of the method's weights")] = None,
    head_learning_rate: Annotated[float | None, typer.Option(min=0.0, help="peak, of the head")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="most rows of one batch; without it as suits the number of rows")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="most tokens of one batch, in place of its rows or beside them")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="batches of one step")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longer inputs are cut, here and when serving")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="epochs without a better score until it stops")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the split, the fresh weights and the order")] = 0,
    precision: Annotated[Precision, typer.Option(help="of the pass in training")] = Precision.no,
    full: Annotated[bool, typer.Option("--full", help="compare with full fine-tuning, too")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a killed run of the same training was")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    push: Annotated[str | None, typer.Option(help="upload to the server at this URL when done")] = None,
    key: Annotated[str, typer.Option(envvar="MANYHATS_KEY", help="API key for --push", show_default=False)] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="print the results as a JSON object, and all else to stderr")
    ] = False,
) -> None:
    """Trains an adapter for a task, compares it with simple baselines, and writes it with its model card."""
    if (method is None) == (sweep is None):
        raise WrongUsage("one of --method and --sweep is needed", param="method")
    if sweep is not None and push is not None:
        raise WrongUsage("--push uploads one adapter; after --sweep use manyhats push", param="push")
    for library in TRAINING:
        require(library)
    # Here, so that the options are shown quickly.
    from accelerate import PartialState

    from manyhats.backbone import Backbone
    from manyhats.engine.self_check import self_check
    from manyhats.training.hints import show as show_hints
    from manyhats.training.job import Job, run
    from manyhats.training.sweep import named
    from manyhats.training.sweep import sweep as run_all

    given = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "head_learning_rate": head_learning_rate,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "accumulate": accumulate,
        "patience": patience,
        "seed": seed,
    }
    own_name(task)
    methods = named(sweep) if sweep is not None else []
    job = Job(
        task=task,
        method=method or methods[0],
        kind=kind.value,
        data=data,
        validation=validation,
        test=test,
        columns=Columns(text=text, label=label, text_pair=text_pair, tokens=tokens, tags=tags, start=answer_start),
        options=parse_options(option or []),
        schedule={name: value for name, value in given.items() if value is not None},
        max_tokens=max_tokens,
        template=template,
        class_weights=parse_weights(class_weights),
        precision=precision.value,
        full=full,
        resume=resume,
        out=out,
    )
    job.chosen_schedule()  # a misspelt method is said before the model is loaded
    state = PartialState(cpu=device == "cpu")
    console = Console(quiet=not state.is_main_process, stderr=as_json)
    if state.num_processes > 1 and device == "auto":
        device = str(state.device)
    loaded = Backbone.load(backbone, device=device, dtype="float32")
    self_check(loaded)
    if sweep is not None:
        console.print(run_all(job, methods, loaded, console))
        console.print(f"written to {out}", highlight=False, soft_wrap=True)
        if as_json and state.is_main_process:
            print_json(sweep_summary(task, out))
        return
    report = run(job, loaded, console)
    console.print(_table(report))
    show_hints(report, console)
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
    if as_json and state.is_main_process:
        sent = {} if push is None else {"pushed": plain(remote.send(task, out, url=push, key=key))}
        print_json(summary(report, out) | sent)
    elif push is not None and state.is_main_process:
        remote.push(task, str(out), url=push, key=key)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as a mapping. Raises WrongUsage for anything else."""
    options = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise WrongUsage(f"--option takes NAME=VALUE, not '{pair}'", param="option")
        options[name.strip()] = value.strip()
    return options


def parse_weights(text: str | None) -> Any:
    """`balanced`, or `LABEL=NUMBER,...` as a mapping. Raises WrongUsage for anything else."""
    if text is None or text == "balanced":
        return text
    weights = {}
    for pair in text.split(","):
        label, sign, number = pair.rpartition("=")
        try:
            weights[label.strip()] = float(number)
        except ValueError:
            sign = ""
        if not sign or not 0 < weights[label.strip()] < float("inf"):
            raise WrongUsage(
                f"--class-weights takes balanced, or LABEL=NUMBER with numbers over 0, not '{pair}'",
                param="class_weights",
            )
    return weights


def _table(report: Report) -> Table:
    from manyhats.training.card import interval_text, scores

    table = Table(title=f"{report.task}: {report.test.name} on {report.test.count} held out")
    table.add_column("")
    table.add_column(report.test.name, justify="right")
    table.add_column("95 % interval", justify="right")
    for name, score in scores(report):
        table.add_row(name, str(score), interval_text(score))
    return table

"""Commands for the tasks of a running server: what there is, where aliases point, settings, and where adapters lie."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from manyhats.commands.connection import (
    DEFAULT_URL,
    AsJson,
    Key,
    Name,
    Url,
    asked,
    connected,
    named_values,
    own_alias,
    own_name,
    plain,
    print_json,
    task_names,
)
from manyhats.errors import WrongUsage

if TYPE_CHECKING:
    from manyhats_client import Canary, Shadow, TaskDetails

_LINE_WIDTH = 1000  # characters
_PAGE = 1000  # tasks
_COLUMNS = ("name", "kind", "method", "version", "residency", "bytes")


def tasks(
    search: Annotated[str | None, typer.Option(help="a part of the names, in whatever case")] = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Lists the tasks of a server."""
    with connected(url, key) as client:
        found = list(client.tasks(_PAGE, search=search))
    if as_json:
        print_json([plain(task) for task in found])
        return
    table = Table(box=None)
    for column in _COLUMNS:
        table.add_column("task" if column == "name" else column, overflow="fold")
    for task in found:
        table.add_row(*(str(getattr(task, column)) for column in _COLUMNS))
    console = Console()
    if not console.is_terminal:
        console.width = _LINE_WIDTH  # another program reads it: a row is a line
    console.print(table)


def show(
    task: Name,
    url: Url = DEFAULT_URL,
    key: Key = "",
    whole: Annotated[bool, typer.Option("--json", help="with the versions' model cards")] = False,
) -> None:
    """Shows a task with its versions, aliases and settings, as JSON."""
    asked(task)
    with connected(url, key) as client:
        answer = plain(client.task(task))
    if not whole:
        for version in answer.get("versions", []):
            version.pop("card", None)
    print_json(answer)


def delete(
    task: Annotated[
        str,
        typer.Argument(
            help="the task's name; `task@3` deletes that version alone, `task@alias` the alias",
            autocompletion=task_names,
        ),
    ],
    url: Url = DEFAULT_URL,
    key: Key = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask first")] = False,
    as_json: AsJson = False,
) -> None:
    """Deletes a task with all its versions, or one version, or an alias."""
    ref = asked(task)
    own_name(ref.task)
    alias = ref.alias if "@" in task else None
    if alias is not None:
        what = f"the alias {alias} of {ref.task}"
    elif ref.number is not None:
        what = f"version {ref.number} of {ref.task}"
    else:
        what = f"{ref.task} with all its versions"
    if not yes:
        if not _can_be_asked():
            raise WrongUsage(f"nobody can be asked whether to delete {what}; --yes says so")
        typer.confirm(f"Delete {what}?", abort=True)
    with connected(url, key) as client:
        if alias is not None:
            client.delete_alias(ref.task, alias)
        elif ref.number is not None:
            client.delete_version(ref.task, ref.number)
        else:
            client.delete(ref.task)
    if as_json:
        print_json({"task": ref.task, "version": ref.number, "alias": alias, "deleted": True})
    else:
        typer.echo(f"deleted {what}")


def alias(
    task: Name,
    alias: Annotated[str, typer.Argument(help="stable, canary, ...")],
    target: Annotated[
        str | None,
        typer.Argument(help="a version, or versions with weights: 2=90,3=10; left out: shows where it points"),
    ] = None,
    affinity: Annotated[
        str | None, typer.Option(help="the header whose value keeps a caller's version; else X-Affinity")
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(help="a version that is asked a part of the requests too: 3=0.1")
    ] = None,
    canary: Annotated[
        int | None, typer.Option(help="the version of the split that is withdrawn when it passes a bound")
    ] = None,
    max_error_rate: Annotated[float | None, typer.Option(help="of the canary: 0.02 for 2 %")] = None,
    max_latency_ratio: Annotated[float | None, typer.Option(help="of the canary's p95 to the others'")] = None,
    max_p95_ms: Annotated[float | None, typer.Option(help="of the canary, in milliseconds")] = None,
    min_requests: Annotated[int | None, typer.Option(help="of the canary, before it is judged")] = None,
    window_seconds: Annotated[float | None, typer.Option(help="that the canary is judged by")] = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Points an alias of a task at a version, or splits it between versions by weight; without a target, shows it."""
    own_name(task)
    own_alias(alias)
    bounds = {
        "max_error_rate": max_error_rate,
        "max_latency_ratio": max_latency_ratio,
        "max_p95_ms": max_p95_ms,
        "min_requests": min_requests,
        "window_seconds": window_seconds,
    }
    given = {name: value for name, value in bounds.items() if value is not None}
    if given and canary is None:
        raise WrongUsage(f"--{next(iter(given)).replace('_', '-')} needs --canary VERSION")
    if target is None:
        if canary is not None or shadow is not None or affinity is not None:
            raise WrongUsage("say where the alias points: a version, or versions with weights (2=90,3=10)")
        with connected(url, key) as client:
            print_json(plain(client.alias(task, alias)))
        return
    with connected(url, key) as client:
        answer = client.set_alias(
            task,
            alias,
            parse_target(target),
            affinity=affinity,
            shadow=None if shadow is None else _shadow(shadow),
            canary=None if canary is None else cast("Canary", {"version": canary, **given}),
        )
    _print(answer, as_json, f"{task}: {alias} is {_described(answer, alias)}")


def rollback(
    task: Name,
    version: Annotated[
        int | None, typer.Argument(min=1, help="the version to go back to; left out: the one before")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Points a task back at an earlier version."""
    own_name(task)
    with connected(url, key) as client:
        answer = client.rollback(task, version)
    _print(answer, as_json, f"{task}: stable is {_described(answer, 'stable')}")


def configure(
    task: Name,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help='such as max_tokens=128, labels=\'["no","yes"]\', pooling=mean'),
    ],
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Sets what is not weights: labels, template, max_tokens, pooling, priority, generation defaults, ..."""
    own_name(task)
    settings = named_values(values, "set")
    with connected(url, key) as client:
        answer = client.configure(task, **settings)
    _print(answer, as_json, f"{task}: set {', '.join(settings)}")


def placement(verb: str, text: str) -> Callable[..., None]:
    """The command `load`, `unload`, `pin` or `unpin`, with its help."""

    def command(task: Name, url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False) -> None:
        asked(task)
        with connected(url, key) as client:
            answer: TaskDetails = getattr(client, verb)(task)
        _print(answer, as_json, f"{task}: {answer.residency}")

    command.__doc__ = text
    return command


def parse_target(text: str) -> int | dict[int, float]:
    """A version, or weights by version from `2=90,3=10`. Raises WrongUsage for anything else."""
    if _is_version(text):
        return int(text)
    weights: dict[int, float] = {}
    for part in text.split(","):
        version, sign, weight = (piece.strip() for piece in part.partition("="))
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not _is_version(version) or not sign or not 0 < number < float("inf") or int(version) in weights:
            raise WrongUsage(
                f"an alias points at a version, or at versions with weights (2=90,3=10), not '{text[:100]}'"
            )
        weights[int(version)] = number
    return weights


def _shadow(text: str) -> Shadow:
    """A version and a fraction from `3=0.1`. Raises WrongUsage for anything else."""
    version, _, fraction = text.partition("=")
    try:
        if not _is_version(version):
            raise ValueError(version)
        return {"version": int(version), "fraction": float(fraction)}
    except ValueError:
        raise WrongUsage(f"a shadow is a version with a part of the requests (3=0.1), not '{text[:100]}'") from None


def _can_be_asked() -> bool:
    return sys.stdin.isatty()


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _described(task: TaskDetails, alias: str) -> str:
    target = task.aliases.get(alias)
    if isinstance(target, list):
        return "split: " + ", ".join(f"version {one.version} with weight {one.weight:g}" for one in target)
    return f"version {target}"


def _print(answer: TaskDetails, as_json: bool, line: str) -> None:
    if as_json:
        print_json(plain(answer))
    else:
        typer.echo(line)

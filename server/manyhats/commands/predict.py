"""The command `manyhats predict`: texts from the command line, a file or stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

from manyhats.commands.connection import (
    DEFAULT_URL,
    AsJson,
    Key,
    Name,
    Url,
    asked,
    connected,
    named_values,
    plain,
    print_json,
)
from manyhats.errors import InvalidRequest, ManyhatsError, WrongUsage

if TYPE_CHECKING:
    from manyhats_client.operations import OneInput

_STDIN = "-"
_JSON_LINES = (".jsonl", ".ndjson")


def predict(
    task: Name,
    texts: Annotated[
        list[str] | None, typer.Argument(help="texts; none: the lines of --file, or of what is piped in")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="a file with one text a line, or .jsonl; - is stdin")
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help='lines are JSON: a text, or {"text": ..., "text_pair": ...}')
    ] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="NAME=VALUE, as top_k=3 or max_new_tokens=64; may be given again"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=2048, help="lines of one request")] = 64,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Asks a task, and prints the outputs as JSON; with --json the whole answers.

    Of texts on the command line one list is printed; of lines, a line for each (with --json for each request), as soon
    as it is there.
    """
    asked(task)
    parameters = named_values(parameter or [], "--parameter")
    if parameters.get("stream"):
        raise WrongUsage("--parameter stream is not supported here; outputs are printed when they are whole")
    if texts and (file is not None or jsonl):
        raise WrongUsage("texts are given on the command line or by lines, not both")
    if texts:
        with connected(url, key) as client:
            answer = plain(client.predict(task, texts, **parameters))
        print_json(answer if as_json else answer["outputs"])
        return
    if file is None and sys.stdin.isatty():
        raise WrongUsage("there is no text: give some, or --file, or pipe lines in")
    source = _STDIN if file is None else file
    done = 0
    with ExitStack() as stack:
        inputs = read_inputs(_opened(source, stack), jsonl or source.endswith(_JSON_LINES))
        progress = stack.enter_context(_progress())
        bar = progress.add_task(task, total=None)
        try:
            with connected(url, key) as client:
                while several := list(islice(inputs, batch)):
                    answer = plain(client.predict(task, several, **parameters))
                    for line in [answer] if as_json else answer["outputs"]:
                        typer.echo(json.dumps(line, ensure_ascii=False))
                    sys.stdout.flush()
                    done += len(several)
                    progress.update(bar, completed=done)
        except ManyhatsError as error:
            if done:  # what was printed holds; from there on it may be asked again
                raise ManyhatsError(f"after {done} lines: {error.message}") from None
            raise
    if not done:
        raise InvalidRequest("there is no text: no line came")


def read_inputs(lines: Iterable[str], as_json: bool) -> Iterator[OneInput]:
    """A text, or a text and its pair, from each line.

    Raises InvalidRequest, with the line's number, for an empty line and for one that is not what it should be.
    """
    numbered = enumerate(lines, 1)
    while True:
        try:
            number, line = next(numbered)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the lines are not UTF-8: {error}") from None
        text = line.rstrip("\r\n")
        if not text.strip():
            raise InvalidRequest(f"line {number} is empty")
        yield _from_json(text, number) if as_json else text


def _from_json(line: str, number: int) -> OneInput:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"line {number} is not valid JSON: {error}") from None
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "text" in value:
        found = {name: value[name] for name in ("text", "text_pair") if value.get(name) is not None}
        if all(isinstance(part, str) for part in found.values()):
            return found
    raise InvalidRequest(f"line {number} is neither a text nor an object with the texts text and text_pair")


def _opened(source: str, stack: ExitStack) -> TextIO:
    if source == _STDIN:
        return typer.get_text_stream("stdin", encoding="utf-8")
    if not Path(source).is_file():
        raise WrongUsage(f"'{source}' is no file")
    try:
        return stack.enter_context(Path(source).open(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"'{source}' cannot be read: {error.strerror or error}") from None


def _progress() -> Progress:
    """How many lines are answered; only where it does not stand between the answers."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or sys.stdout.isatty())

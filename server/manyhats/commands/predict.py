"""The command `manyhats predict`: texts from the command line, a file or stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

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
from manyhats.commands.progress import lines_bar
from manyhats.errors import InvalidRequest, ManyhatsError, WrongUsage

if TYPE_CHECKING:
    from manyhats_client import Client, Item, OneInput

_STDIN = "-"
_RETRIES = 3  # of what is refused for now: lines may be more than a queue takes
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
    stream: Annotated[
        bool | None,
        typer.Option(
            help="print a generated text as it comes, in place of JSON; by default for one text, at a terminal, "
            "without --json",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=2048, help="lines of one request")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="requests at once")] = 4,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Asks a task, and prints the outputs as JSON; with --json the whole answers.

    Of texts on the command line one list is printed; of lines, a line for each, in their order and as soon as it is
    there. A line that fails has {"error": ...} in its place, and the command ends with 1.
    """
    asked(task)
    parameters = named_values(parameter or [], "--parameter")
    if parameters.get("stream"):
        raise WrongUsage("--parameter stream is not supported here; --stream prints a text as it comes")
    if texts and (file is not None or jsonl):
        raise WrongUsage("texts are given on the command line or by lines, not both")
    if stream and (as_json or not texts or len(texts) > 1):
        raise WrongUsage("--stream prints one text of the command line, without --json")
    if texts:
        at_terminal = len(texts) == 1 and not as_json and sys.stdout.isatty() and "n" not in parameters
        with connected(url, key) as client:
            if (at_terminal if stream is None else stream) and _streamed(client, task, texts[0], parameters, stream):
                return
            answer = plain(client.predict(task, texts, parameters=parameters))
        print_json(answer if as_json else answer["outputs"])
        return
    if file is None and sys.stdin.isatty():
        raise WrongUsage("there is no text: give some, or --file, or pipe lines in")
    source = _STDIN if file is None else file
    done = failed = 0
    with ExitStack() as stack:
        inputs = read_inputs(_opened(source, stack), jsonl or source.endswith(_JSON_LINES))
        told = stack.enter_context(lines_bar(task))
        try:
            with connected(url, key) as client:
                asking = client.predict_many(
                    task, inputs, parameters=parameters, batch_size=batch, concurrency=concurrency, retries=_RETRIES
                )
                for item in stack.enter_context(closing(asking)):
                    typer.echo(json.dumps(_line(item, as_json), ensure_ascii=False))
                    sys.stdout.flush()
                    done, failed = done + 1, failed + (not item.ok)
                    told(done, None)
        except ManyhatsError as error:
            if done:  # what was printed holds; from there on it may be asked again
                raise ManyhatsError(f"after {done} lines: {error.message}") from None
            raise
    if not done:
        raise InvalidRequest("there is no text: no line came")
    if failed:
        raise ManyhatsError(f"{failed} of {done} lines failed; each has its error in its place")


def _streamed(client: Client, task: str, text: str, parameters: dict[str, Any], demanded: bool | None) -> bool:
    """Prints a text as it comes; false where the task does not generate, and nobody has demanded that it does."""
    from manyhats_client import BadRequest

    try:
        with client.generate_stream(task, text, parameters=parameters) as events:
            for event in events:
                typer.echo(event.text, nl=False)
                sys.stdout.flush()
    except BadRequest:
        if demanded:
            raise
        return False  # what else may be wrong is said by the answer that is not streamed
    typer.echo()
    return True


def _line(item: Item, whole: bool) -> Any:
    """What is printed of a line's answer."""
    if item.answer is None:
        error = item.error
        return {"error": {"message": getattr(error, "message", str(error)), "type": type(error).__name__}}
    answer = plain(item.answer)
    return answer if whole else answer["outputs"][0]


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

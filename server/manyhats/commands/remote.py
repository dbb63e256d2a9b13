"""Commands that talk to a running server: push, tasks, show, rollback, predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from manyhats.commands.packing import Part, archive_parts, folder_parts
from manyhats.errors import InvalidRequest, ManyhatsError, NotReady
from manyhats.formats.contents import names_of, select
from manyhats.registry.names import check_name, parse_ref

Url = Annotated[str, typer.Option("--url", envvar="MANYHATS_URL", help="address of the server")]
Key = Annotated[str, typer.Option("--key", envvar="MANYHATS_KEY", help="API key", show_default=False)]
Name = Annotated[str, typer.Argument(help="the task's name")]
_URL = "http://127.0.0.1:8000"
_LINE_WIDTH = 1000  # characters
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")


def push(
    task: Name,
    path: Annotated[Path, typer.Argument(help="an adapter folder, or a zip or tar.gz of one")],
    url: Url = _URL,
    key: Key = "",
    alias: Annotated[str, typer.Option(help="alias to point at the new version")] = "stable",
    activate: Annotated[bool, typer.Option(help="point the alias at the new version")] = True,
    kind: Annotated[
        str, typer.Option(help="what the task answers, where the files do not say it or another is meant")
    ] = "",
) -> None:
    """Uploads an adapter as a new version of a task."""
    check_name(task, write=True)
    form = {"alias": alias, "activate": str(activate).lower()} | ({"task": json.dumps({"kind": kind})} if kind else {})
    with _parts(path) as files, _client(url, key) as client:
        answer = _checked(client.post(f"/v1/tasks/{task}/versions", files=files, data=form))
    rank = f", rank {answer['rank']}" if answer["rank"] else ""
    typer.echo(
        f"{answer['task']}@{answer['version']}: {answer['method']}, {answer['kind']}{rank}, "
        f"{answer['matched_tensors']} tensors, {answer['bytes']} bytes, sha256 {answer['sha256'][:12]}"
    )
    for warning in answer.get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)


def tasks(url: Url = _URL, key: Key = "") -> None:
    """Lists the tasks of a server."""
    columns = ("name", "kind", "method", "version", "residency", "bytes")
    table = Table(box=None)
    for column in columns:
        table.add_column("task" if column == "name" else column, overflow="fold")
    token = None
    with _client(url, key) as client:
        while True:
            query = {"limit": 1000} | ({"page_token": token} if token else {})
            answer = _checked(client.get("/v1/tasks", params=query))
            for row in answer["data"]:
                table.add_row(*(str(row[column]) for column in columns))
            token = answer["next_page_token"]
            if token is None:
                break
    console = Console()
    if not console.is_terminal:
        console.width = _LINE_WIDTH  # another program reads it: a row is a line
    console.print(table)


def show(task: Name, url: Url = _URL, key: Key = "") -> None:
    """Shows a task with its versions, aliases and settings."""
    parse_ref(task)
    with _client(url, key) as client:
        answer = _checked(client.get(f"/v1/tasks/{task}"))
    for version in answer.get("versions", []):
        version.pop("card", None)
    Console().print_json(data=answer)


def rollback(
    task: Name,
    version: Annotated[int | None, typer.Argument(help="the version to go back to; left out: the one before")] = None,
    url: Url = _URL,
    key: Key = "",
) -> None:
    """Points a task back at an earlier version."""
    check_name(task, write=True)
    body = {} if version is None else {"version": version}
    with _client(url, key) as client:
        answer = _checked(client.post(f"/v1/tasks/{task}/rollback", json=body))
    typer.echo(f"{task}: stable is version {answer['aliases']['stable']}")


def predict(
    task: Name,
    texts: Annotated[list[str], typer.Argument(help="one or more texts")],
    url: Url = _URL,
    key: Key = "",
) -> None:
    """Asks a task, and prints the answers as JSON."""
    parse_ref(task)
    with _client(url, key) as client:
        answer = _checked(client.post(f"/v1/tasks/{task}/predict", json={"inputs": texts}))
    Console().print_json(data=answer["outputs"])


def upload_parts(path: Path, stack: ExitStack) -> tuple[list[Part], tuple[str, ...]]:
    """The multipart parts for an adapter: its files, or one archive where it has subfolders; and warnings.

    What a trainer left beside an adapter is not sent, which the warnings say. `stack` closes what is opened. Raises
    InvalidRequest where there is nothing to send, UnsupportedFormat for weights in a pickle, OSError for a file that
    cannot be read.
    """
    if path.is_file() and path.name.endswith(_ARCHIVES):
        return archive_parts(path, stack), ()
    if not path.is_dir():
        raise InvalidRequest(f"'{path}' is no adapter folder and no zip or tar.gz")
    contents = select(names_of(path))
    contents.check()
    files = {contents.place(name): path / name for name in contents.kept}
    if not files:
        raise InvalidRequest(f"the folder '{path}' is empty, or holds no file of an adapter")
    return folder_parts(path, files, stack), contents.warnings()


@contextmanager
def _parts(path: Path) -> Iterator[list[Part]]:
    with ExitStack() as stack:
        try:
            parts, warnings = upload_parts(path, stack)
        except OSError as error:
            raise InvalidRequest(f"'{path}' cannot be read: {error.strerror or error}") from None
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        yield parts


@contextmanager
def _client(url: str, key: str) -> Iterator[httpx.Client]:
    headers = {b"Authorization": f"Bearer {key}".encode()} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=300) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotReady(f"no answer from {url}: {error}") from None


def _checked(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        raise ManyhatsError(f"{answer.url} answered {answer.status_code} without JSON") from None
    if answer.is_success and isinstance(body, dict):
        return body
    try:
        message = body["error"]["message"]
    except (LookupError, TypeError):
        message = f"{answer.url} answered {answer.status_code}, but not as this server does"
    raise ManyhatsError(str(message))

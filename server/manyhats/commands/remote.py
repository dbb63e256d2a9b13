"""Commands that bring adapters to a running server and back: push, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from manyhats.commands.connection import (
    DEFAULT_URL,
    AsJson,
    Key,
    Name,
    Url,
    asked,
    connected,
    own_alias,
    own_name,
    plain,
    print_json,
    task_names,
)
from manyhats.commands.progress import bytes_bar
from manyhats.errors import InvalidRequest, ManyhatsError, WrongUsage
from manyhats.formats.contents import names_of, select

if TYPE_CHECKING:
    from manyhats_client import TaskDetails, Upload

    from manyhats.registry.names import Ref

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
_SOURCES = ("hf://", "s3://", "file://")  # as manyhats_client.sources has them
_FETCH_TIMEOUT = 900.0  # seconds; the server's own source_timeout ends it before


class _Given(TypedDict):
    """What `send` and `fetched` are both given."""

    url: str
    key: str
    alias: str
    activate: bool
    kind: str
    examples: Path | None
    max_drop: float


def push(
    task: Name,
    path: Annotated[
        str,
        typer.Argument(
            help="an adapter folder, or a zip or tar.gz of one; or what the server fetches it from, where its settings "
            "allow that: hf://owner/name@revision, s3://bucket/prefix, file:///folder/of/the/server"
        ),
    ],
    url: Url = DEFAULT_URL,
    key: Key = "",
    alias: Annotated[str, typer.Option(help="alias to point at the new version")] = "stable",
    activate: Annotated[bool, typer.Option(help="point the alias at the new version")] = True,
    kind: Annotated[
        str, typer.Option(help="what the task answers, where the files do not say it or another is meant")
    ] = "",
    examples: Annotated[
        Path | None,
        typer.Option(
            help="labelled examples as JSON lines: the version is activated only if it is no worse than the stable one"
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0, help="how much worse it may be, by the kind's metric")] = 0.0,
    sha256: Annotated[str, typer.Option(help="of what the server fetches: another adapter is not taken")] = "",
    as_json: AsJson = False,
) -> None:
    """Uploads an adapter as a new version of a task."""
    if examples is None and max_drop:
        raise WrongUsage("--max-drop needs --examples")
    given: _Given = {
        "url": url,
        "key": key,
        "alias": alias,
        "activate": activate,
        "kind": kind,
        "examples": examples,
        "max_drop": max_drop,
    }
    if path.startswith(_SOURCES):
        answer = fetched(task, path, sha256=sha256, **given)
    elif sha256:
        raise WrongUsage("--sha256 is of what the server fetches, and a folder or an archive is sent")
    else:
        answer = send(task, Path(path), **given)
    evaluation = answer.evaluation
    refused = activate and evaluation is not None and not evaluation.activated
    if as_json:
        print_json(plain(answer))
    elif not refused:
        rank = f", rank {answer.rank}" if answer.rank else ""
        typer.echo(
            f"{answer.task}@{answer.version}: {answer.method}, {answer.kind}{rank}, "
            f"{answer.matched_tensors} tensors, {answer.bytes} bytes, sha256 {answer.sha256[:12]}"
        )
        if evaluation is not None:
            typer.echo(f"{'activated' if evaluation.activated else 'not activated'}: {evaluation.reason}")
    for warning in answer.warnings:
        typer.echo(f"warning: {warning if isinstance(warning, str) else warning.message}", err=True)
    if refused and evaluation is not None:
        raise ManyhatsError(f"{answer.task}@{answer.version} is kept and not activated: {evaluation.reason}")


def send(
    task: str,
    path: Path,
    *,
    url: str,
    key: str,
    alias: str = "stable",
    activate: bool = True,
    kind: str = "",
    examples: Path | None = None,
    max_drop: float = 0.0,
) -> Upload:
    """Uploads an adapter; raises an error of one line where it is none, or where the server does not take it."""
    own_name(task)
    own_alias(alias)
    if examples is not None and not examples.is_file():
        raise WrongUsage(f"--examples: '{examples}' is no file")
    try:
        files = files_to_send(path)
        with connected(url, key) as client, bytes_bar(f"to {task}") as progress:
            return client.upload(
                task,
                files,
                alias=alias,
                activate=activate,
                settings={"kind": kind} if kind else None,
                examples=examples,
                max_drop=None if examples is None else max_drop,
                progress=progress,
            )
    except OSError as error:
        unread = error.filename or path
        raise InvalidRequest(f"'{unread}' cannot be read: {error.strerror or error}") from None


def fetched(
    task: str,
    address: str,
    *,
    url: str,
    key: str,
    alias: str,
    activate: bool,
    kind: str,
    examples: Path | None,
    max_drop: float,
    sha256: str,
) -> Upload:
    """Has the server fetch an adapter; raises an error of one line where it does not."""
    own_name(task)
    own_alias(alias)
    rows = None if examples is None else _rows(examples)
    with connected(url, key) as client:
        try:
            return client.upload_from(
                task,
                address,
                alias=alias,
                activate=activate,
                sha256=sha256 or None,
                settings={"kind": kind} if kind else None,
                examples=rows,
                max_drop=None if rows is None else max_drop,
                timeout=_FETCH_TIMEOUT,
            )
        except ValueError as error:
            raise WrongUsage(str(error)) from None


def _rows(examples: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines. Raises InvalidRequest for what is none."""
    try:
        lines = examples.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise InvalidRequest(f"'{examples}' cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidRequest(f"'{examples}' holds no JSON lines: {error}") from None
    return rows


def download(
    task: Annotated[
        str, typer.Argument(help="the task's name, or `task@alias`, or `task@3`", autocompletion=task_names)
    ],
    out: Annotated[Path, typer.Argument(help="a file to write, or a folder that is there")] = Path(),
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Writes the files of a version as a tar.gz."""
    ref = asked(task)
    if not (out if out.is_dir() else out.parent).is_dir():
        raise WrongUsage(f"'{out.parent}' is no folder")
    try:
        with connected(url, key) as client:
            number = ref.number if ref.number is not None else _version_of(client.task(ref.task), ref)
            with bytes_bar(f"{ref.task}@{number}") as progress:
                path = client.download(ref.task, number, out, progress=progress)
    except OSError as error:
        raise InvalidRequest(f"'{out}' cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json({"task": ref.task, "version": number, "path": str(path), "bytes": path.stat().st_size})
    else:
        typer.echo(f"{ref.task}@{number}: {path}, {path.stat().st_size} bytes")


def _version_of(task: TaskDetails, ref: Ref) -> int:
    target = task.aliases.get(str(ref.alias))
    if target is None:
        raise InvalidRequest(f"'{ref.task}' has no alias '{ref.alias}'")
    if not isinstance(target, int):
        versions = ", ".join(str(one.version) for one in target)
        raise WrongUsage(f"'{ref.alias}' is split between the versions {versions}; say which, as {ref.task}@NUMBER")
    return target


def files_to_send(path: Path) -> Path | dict[str, Path]:
    """What is sent of an adapter: an archive as it is; of a folder, its files by the name that each is to have.

    What a trainer left beside an adapter is not sent, which is said. Raises WrongUsage where there is nothing to send,
    UnsupportedFormat for weights in a pickle, OSError for a folder that cannot be read.
    """
    if path.is_file() and path.name.lower().endswith(_ARCHIVES):
        return path
    if not path.is_dir():
        raise WrongUsage(f"'{path}' is no adapter folder and no zip or tar.gz")
    contents = select(names_of(path))
    contents.check()
    files = {contents.place(name): path / name for name in contents.kept}
    if not files:
        raise WrongUsage(f"the folder '{path}' is empty, or holds no file of an adapter")
    for warning in contents.warnings():
        typer.echo(f"warning: {warning}", err=True)
    return files

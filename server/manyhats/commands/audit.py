"""`manyhats audit`: who changed what on a server."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from manyhats.commands.connection import DEFAULT_URL, AsJson, Key, Url, connected, plain, print_json

if TYPE_CHECKING:
    from manyhats_client import AuditEntry

_LINE_WIDTH = 1000  # characters
_PAGE = 1000  # entries


def audit(
    task: Annotated[str | None, typer.Option(help="of this task alone")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many changes, the newest first")] = 100,
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Shows who changed what, and from which versions to which, the newest first."""
    with connected(url, key) as client:
        found = list(islice(client.audit(min(limit, _PAGE), task=task), limit))
    if as_json:
        print_json([plain(entry) for entry in found])
        return
    table = Table(box=None)
    for column in ("time", "actor", "action", "task", "what", "request_id"):
        table.add_column(column, overflow="fold")
    for entry in found:
        when = entry.time.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(when, entry.actor, entry.action, entry.task, _described(entry), entry.request_id)
    console = Console()
    if not console.is_terminal:
        console.width = _LINE_WIDTH  # another program reads it: a row is a line
    console.print(table)


def _described(entry: AuditEntry) -> str:
    """`version 3, stable 2 -> 3`."""
    before, after = (
        "+".join(f"{one.version}" if len(split) == 1 else f"{one.version}={one.weight:g}" for one in split) or "nothing"
        for split in (entry.from_versions, entry.to_versions)
    )
    parts = [f"version {entry.version}"] if entry.version is not None else []
    parts += [f"{entry.alias} {before} -> {after}"] if entry.alias else []
    return ", ".join([*parts, *([entry.detail] if entry.detail else [])])

"""`manyhats keys`: who may do what, in a file that a server reads again when it has changed."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from manyhats.access.keys import KeyFile, KeyRecord
from manyhats.access.scopes import SCOPES
from manyhats.commands.connection import print_json
from manyhats.errors import Conflict, InvalidRequest, NotFound, WrongUsage
from manyhats.registry.store_state import OWN_FOLDER

_LINE_WIDTH = 1000  # characters
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_LONGEST = 100 * 365 * 86400.0  # seconds

app = typer.Typer(help="Makes keys for a server, lists them and takes them back.", no_args_is_help=True)

Store = Annotated[Path, typer.Option("--store", envvar="MANYHATS_STORE", help="the server's store")]
File = Annotated[
    Path | None,
    typer.Option("--keys-file", envvar="MANYHATS_KEYS_FILE", help="the server's keys_file, where that is another"),
]
Name = Annotated[str, typer.Argument(help="the key's name")]
AsJson = Annotated[bool, typer.Option("--json", help="print it as JSON")]
_STORE = Path("adapters_store")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="whose it is: small letters, digits and '-'")],
    scopes: Annotated[
        str, typer.Option("--scopes", "--scope", help=f"what it may do, with commas between: {', '.join(SCOPES)}")
    ] = "predict",
    tenant: Annotated[str, typer.Option(help="whose fair share its requests take")] = "",
    tasks: Annotated[str, typer.Option(help="its only tasks: names with * and ?, commas between")] = "",
    namespace: Annotated[str, typer.Option(help="how the names of its tasks begin, such as team-")] = "",
    expires: Annotated[str, typer.Option(help="how long it holds: 90d, 12h, 4w, 30m; none: until it is revoked")] = "",
    requests: Annotated[str, typer.Option(help="how many requests it may send: 100/minute")] = "",
    tokens: Annotated[str, typer.Option(help="how many tokens its requests may take: 100000/minute")] = "",
    weight: Annotated[float, typer.Option(help="its tenant's part beside others'")] = 1.0,
    store: Store = _STORE,
    keys_file: File = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key, and prints it once: the file has a hash of it alone."""
    until = None if not expires else time.time() + _seconds(expires)
    try:
        record, key = _file(store, keys_file).create(
            name,
            scopes=_parts(scopes),
            tenant=tenant,
            tasks=_parts(tasks),
            namespace=namespace,
            weight=weight,
            requests=requests,
            tokens=tokens,
            expires=until,
        )
    except (InvalidRequest, Conflict) as error:
        raise WrongUsage(error.message) from None
    if as_json:
        print_json(_plain(record) | {"key": key})
        return
    typer.echo(key)
    typer.echo("This is the only time that the key is shown. A running server knows it within seconds.", err=True)


@app.command("list")
def list_keys(store: Store = _STORE, keys_file: File = None, as_json: AsJson = False) -> None:
    """Lists the keys: what they may do, and whether they are in use."""
    found = _file(store, keys_file).read()
    if as_json:
        print_json([_plain(record) for record in found])
        return
    table = Table(box=None)
    for column in ("name", "state", "tenant", "scopes", "tasks", "namespace", "requests", "tokens", "expires"):
        table.add_column(column, overflow="fold")
    for one in found:
        until = "" if one.expires is None else datetime.fromtimestamp(one.expires, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            one.name, one.state, one.tenant, ",".join(one.scopes), ",".join(one.tasks), one.namespace, one.requests,
            one.tokens, until,
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = _LINE_WIDTH  # another program reads it: a row is a line
    console.print(table)


@app.command("revoke")
def revoke(name: Name, store: Store = _STORE, keys_file: File = None, as_json: AsJson = False) -> None:
    """Takes a key back, for good. A running server refuses it within seconds."""
    try:
        record = _file(store, keys_file).revoke(name)
    except NotFound as error:
        raise WrongUsage(error.message) from None
    if as_json:
        print_json(_plain(record))
    else:
        typer.echo(f"revoked {record.name}")


def _file(store: Path, keys_file: Path | None) -> KeyFile:
    return KeyFile(keys_file or store / OWN_FOLDER / "keys.json")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seconds(text: str) -> float:
    """Raises WrongUsage for a text that is no span of time."""
    match = _SPAN.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST:
        raise WrongUsage(f"--expires takes a number and m, h, d or w, such as 90d, not '{text[:50]}'")
    return seconds


def _plain(record: KeyRecord) -> dict[str, Any]:
    """What may be shown of a key."""
    return record.model_dump(mode="json", exclude={"check", "salt", "hash"}) | {"state": record.state}

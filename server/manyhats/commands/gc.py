"""`manyhats gc`: removes from a store, and from where its files are, what no version needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyhats.commands.connection import AsJson, print_json
from manyhats.errors import ConfigurationError, WrongUsage
from manyhats.registry.store_state import OWN_FOLDER

if TYPE_CHECKING:
    from manyhats.registry.blobs.base import Blobs
    from manyhats.registry.blobs.collect import Collected
    from manyhats.registry.stores.base import MetadataStore

_HOUR = 3600.0  # seconds


def gc(
    store: Annotated[Path, typer.Option("--store", envvar="MANYHATS_STORE", help="a server's store")] = Path(
        "adapters_store"
    ),
    database_url: Annotated[
        str, typer.Option("--database-url", envvar="MANYHATS_DATABASE_URL", help="the server's database_url")
    ] = "",
    blobs_url: Annotated[
        str, typer.Option("--blobs-url", envvar="MANYHATS_BLOBS_URL", help="the server's blobs_url")
    ] = "",
    grace: Annotated[
        float, typer.Option(min=0, help="seconds that a content must not have been needed, so that requests end")
    ] = _HOUR,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    as_json: AsJson = False,
) -> None:
    """Removes what no version needs: contents, what uploads have left, cached files. Servers may be running."""
    from manyhats.registry.blobs.choose import choose_blobs  # SQLAlchemy takes its time
    from manyhats.registry.blobs.collect import collect

    with _database(store, database_url) as database:
        blobs = choose_blobs(blobs_url, store / OWN_FOLDER)
        try:
            _check(blobs, blobs_url, database)
            found = collect(blobs, database.write, grace, dry_run=dry_run)
        finally:
            blobs.close()
    if as_json:
        print_json(_plain(found))
        return
    verb = "would remove" if dry_run else "removed"
    for sha in found.removed:
        typer.echo(f"{verb} {sha}")
    for leftover in found.leftovers:
        typer.echo(f"{verb} {leftover.name}, which an upload has left")
    for sha in found.missing:
        typer.echo(f"missing {sha}, which a version needs")
    typer.echo(
        f"{found.needed} contents are needed, {len(found.waiting)} wait for their time of grace; {verb} "
        f"{len(found.removed)} contents, {len(found.leftovers)} leftovers, {len(found.cached)} cached copies"
    )


@contextmanager
def _database(store: Path, url: str) -> Iterator[MetadataStore]:
    from manyhats.registry.stores.choose import metadata_store

    folder = store / OWN_FOLDER
    if not url and not (folder / "registry.sqlite3").exists():
        raise WrongUsage(f"'{store}' is no store that a server has used; give --store the server's")
    database = metadata_store(url, folder)
    database.open(make=False)
    try:
        yield database
    finally:
        database.close()


def _check(blobs: Blobs, address: str, database: MetadataStore) -> None:
    """Raises ConfigurationError where the database and the blobs are not of one server: all would seem unneeded."""
    if not blobs.shared:
        return
    from manyhats.registry.blobs.owner import owner_id

    with database.write() as session:
        own = owner_id(session)
    found = blobs.owner()
    if found != own:
        whose = "nobody's yet" if found is None else f"those of another database ({found[:64]})"
        raise ConfigurationError(
            f"the blobs in '{address}' are {whose}, this store's database is {own}; nothing is removed. Give --store "
            "and --blobs-url as the server has them"
        )


def _plain(found: Collected) -> dict[str, Any]:
    return {
        "needed": found.needed,
        "removed": found.removed,
        "waiting": found.waiting,
        "marked": found.marked,
        "missing": found.missing,
        "leftovers": [one.name for one in found.leftovers],
        "cached": found.cached,
    }

"""`manyhats migrate`, `backup` and `restore`: a store as a whole, without a server or beside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from manyhats.commands.connection import AsJson, print_json
from manyhats.errors import Conflict, UnsupportedFormat, WrongUsage
from manyhats.registry.backup import Counts, write_backup
from manyhats.registry.blobs import Blobs
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.restoring import Restoring
from manyhats.registry.store_state import LOCK, OWN_FOLDER
from manyhats.registry.stores.choose import metadata_store
from manyhats.registry.stores.looking import migrate_database, reading
from manyhats.settings import Settings, load_settings

Store = Annotated[str, typer.Option("--store", help="the server's store", show_default=False)]
DatabaseUrl = Annotated[
    str, typer.Option("--database-url", help="the server's database_url, where it has one", show_default=False)
]
BlobsUrl = Annotated[
    str, typer.Option("--blobs-url", help="the server's blobs_url, where it has one", show_default=False)
]
File = Annotated[Path, typer.Argument(help="a tar", show_default=False)]


def migrate(store: Store = "", database_url: DatabaseUrl = "", as_json: AsJson = False) -> None:
    """Brings a database to the schema of this Manyhats: all of it or nothing, whatever ends the command.

    SQLite's store must not be in use; servers do the same at their start. Stop PostgreSQL's servers first.
    """
    settings = _settings(store, database_url)
    folder = settings.store / OWN_FOLDER
    if settings.database_url:
        before, after = migrate_database(settings.database_url, folder)
    else:
        with _own(settings):
            before, after = migrate_database("", folder)
    if as_json:
        print_json({"schema_before": before, "schema": after})
    elif before == after:
        typer.echo(f"nothing to do: the database has schema {after}")
    else:
        typer.echo(f"schema {before} -> {after}" if before else f"made the tables of schema {after}")


def backup(
    file: File,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="leave out files that are damaged")] = False,
    store: Store = "",
    database_url: DatabaseUrl = "",
    blobs_url: BlobsUrl = "",
    as_json: AsJson = False,
) -> None:
    """Copies a store, its metadata and its files, into one tar, while servers run. Keys are not in it."""
    settings = _settings(store, database_url, blobs_url)
    folder = settings.store / OWN_FOLDER
    try:
        with _blobs(settings) as blobs:
            counts = write_backup(
                file, partial(reading, settings.database_url, folder), blobs, skip_damaged=skip_damaged
            )
    except (Conflict, OSError) as error:
        raise WrongUsage(str(error)) from None
    _print("copied", counts, as_json)


def restore(
    file: File,
    store: Store = "",
    database_url: DatabaseUrl = "",
    blobs_url: BlobsUrl = "",
    as_json: AsJson = False,
) -> None:
    """Puts a backup into an empty store, after comparing all of it with its digests: all of it, or no task."""
    settings = _settings(store, database_url, blobs_url)
    folder = settings.store / OWN_FOLDER
    if not file.is_file():
        raise WrongUsage(f"'{file}' is no file")
    database = metadata_store(settings.database_url, folder, migrate=True)
    blobs = choose_blobs(settings.blobs_url, folder, settings.blob_cache, settings.blob_timeout)
    folder.mkdir(parents=True, exist_ok=True)
    with _own(settings):
        blobs.open()
        database.open(make=True)
        try:
            counts = Restoring(database, blobs).restore(file)
        except (Conflict, UnsupportedFormat) as error:
            raise WrongUsage(error.message) from None
        finally:
            database.close()
            blobs.close()
    _print("restored", counts, as_json)


def _settings(store: str, database_url: str, blobs_url: str = "") -> Settings:
    given = {"store": store, "database_url": database_url, "blobs_url": blobs_url}
    return load_settings(None, **{name: value for name, value in given.items() if value})


@contextmanager
def _blobs(settings: Settings) -> Iterator[Blobs]:
    """The files, read beside a server: what comes from an object store goes through a cache of the command's own."""
    with TemporaryDirectory() as own:
        folder = Path(own) if settings.blobs_url else settings.store / OWN_FOLDER
        blobs = choose_blobs(settings.blobs_url, folder, settings.blob_cache, settings.blob_timeout)
        if settings.blobs_url:
            blobs.open()
        try:
            yield blobs
        finally:
            blobs.close()


@contextmanager
def _own(settings: Settings) -> Iterator[None]:
    """Holds the store's folder. Raises WrongUsage where a server has it, or there is none."""
    lock = settings.store / OWN_FOLDER / LOCK
    if not lock.parent.is_dir():
        raise WrongUsage(f"there is no store in '{settings.store}'")
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise WrongUsage(f"a server uses the store '{settings.store}'; stop it first") from None


def _print(what: str, counts: Counts, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "tasks": counts.tasks,
                "versions": counts.versions,
                "contents": counts.contents,
                "damaged": counts.damaged,
            }
        )
        return
    typer.echo(f"{what} {counts.tasks} tasks, {counts.versions} versions, {counts.contents} adapters' files")
    for sha, reason in sorted(counts.damaged.items()):
        typer.echo(f"left out {sha}: {reason}", err=True)

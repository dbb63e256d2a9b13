"""Which database a registry has, by the setting `database_url`."""

from __future__ import annotations

import uuid
from pathlib import Path

from manyhats.errors import ConfigurationError
from manyhats.registry.stores.base import MetadataStore
from manyhats.registry.stores.sqlite import SqliteStore

_SERVER = "server"  # a file with this server's name among those of its database


def metadata_store(url: str, folder: Path, *, migrate: bool = False) -> MetadataStore:
    """The database at `url`; SQLite in `folder` without one. `migrate`: whether PostgreSQL's tables of an older schema
    are brought up to date when it is opened; SQLite's always are.

    Raises WrongSetting for a url that is none, ConfigurationError where the driver is not installed.
    """
    if not url:
        return SqliteStore(folder)
    try:
        from manyhats.registry.stores.postgresql import PostgresqlStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a database at postgresql:// needs {error.name}: pip install 'manyhats[postgres]'"
        ) from None
    return PostgresqlStore(url, _name(folder), migrate=migrate)


def _name(folder: Path) -> str:
    """This server's name: made once, and kept in its own folder."""
    file = folder / _SERVER
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{uuid.uuid4().hex}\n")
        return file.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"the store '{folder.parent}' cannot be used: {error}") from None

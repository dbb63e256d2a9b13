"""How the values of settings are written: each one's check says what would be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: that is what a path leaves of two
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.]+\]")
_SOURCE = re.compile(r"hub:[A-Za-z0-9*?][A-Za-z0-9._*?/-]*|s3://[a-z0-9][a-z0-9.-]*/\S+")
_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")


def _split(value: Any) -> Any:
    """Texts from one text with commas between them."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _some_keys(value: Any) -> Any:
    """Keys from one text, or from a list. Nothing where keys are meant to be is a slip that would open the server."""
    keys = _split(value)
    if value != () and isinstance(keys, list | tuple):
        keys = tuple(key.strip() if isinstance(key, str) else key for key in keys)
        if not keys or "" in keys:
            raise ValueError("it is given, but a key is empty; to run without keys, leave the setting out altogether")
    return keys


def _folder(value: Any) -> Any:
    """A folder of this machine. An address would become a folder with the scheme's name."""
    if _ADDRESS.match(str(value)):
        raise ValueError("a store is a folder on this machine; addresses such as s3:// are not supported")
    return value


def _database(value: Any) -> Any:
    """The address of a PostgreSQL, or none."""
    if value and not re.match(r"postgres(ql)?://", str(value)):
        raise ValueError("write postgresql://user@host:5432/name, or nothing for SQLite in the store")
    return value


def _blobs_address(value: Any) -> Any:
    """A folder, an object store, or nothing."""
    text = str(value).strip()
    if _ADDRESS.match(text) and not re.fullmatch(r"(s3|gs|az)://[^/\s]+(/\S*)?", text):
        raise ValueError("write a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")
    return text


def _http_address(value: Any) -> Any:
    """The address of an HTTP server, or none."""
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", str(value)):
        raise ValueError("write the address of an OTLP receiver, as http://127.0.0.1:4318")
    return value


def _hosts(value: Any) -> Any:
    """Host names, each plain, `*` or `*.example.com`."""
    names = _split(value)
    for name in names if isinstance(names, list | tuple) else ():
        if not isinstance(name, str) or not _HOST.fullmatch(name):
            raise ValueError(f"{name!r} is no host name; write names without scheme and port, *.example.com, or *")
    return names


def _sources(value: Any) -> Any:
    """Patterns of sources."""
    patterns = _split(value)
    for pattern in patterns if isinstance(patterns, list | tuple) else ():
        if not isinstance(pattern, str) or not _SOURCE.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is no pattern of sources; write hub:my-org/* or s3://bucket/prefix*")
    return patterns


def _origins(value: Any) -> Any:
    """Origins as browsers write them."""
    origins = _split(value)
    for origin in origins if isinstance(origins, list | tuple) else ():
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin; write https://app.example.com, with its port if it has one, or *"
            )
    return tuple(origin.lower() for origin in origins) if isinstance(origins, list | tuple) else origins


Folder = Annotated[Path, BeforeValidator(_folder)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_some_keys)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
Sources = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_sources)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
DatabaseAddress = Annotated[str, BeforeValidator(_database)]
BlobsAddress = Annotated[str, BeforeValidator(_blobs_address)]
HttpAddress = Annotated[str, BeforeValidator(_http_address)]

"""What both clients share around their connections: options, and where a download goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from manyhats_client._version import __version__
from manyhats_client.errors import from_transport

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 60.0  # seconds

Seconds = float | httpx.Timeout | None


def options(base_url: str | None, api_key: str | None, timeout: Seconds) -> dict[str, Any]:
    """What `httpx.Client` and `httpx.AsyncClient` are made with."""
    url = httpx.URL(base_url or os.environ.get("MANYHATS_URL") or DEFAULT_URL)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"the server's address must look like {DEFAULT_URL}, not {str(url)!r}")
    headers: dict[str, str | bytes] = {
        "User-Agent": f"manyhats-client/{__version__}",
        "Accept": "application/json, */*;q=0.5",
    }
    if api_key:
        headers["Authorization"] = f"Bearer {api_key.strip()}".encode()  # httpx would take letters of ASCII alone
    return {"base_url": url, "headers": headers, "timeout": timeout}


@contextmanager
def translated() -> Iterator[None]:
    """Turns the failures of a connection into the client's own exceptions."""
    try:
        yield
    except httpx.RequestError as error:
        raise from_transport(error) from error


@contextmanager
def saved(out: str | os.PathLike[str], task: str, number: int) -> Iterator[tuple[BinaryIO, Path]]:
    """A file to write a download to, and the path that it gets once it is whole.

    In a folder it is called `<task>-<version>.tar.gz`.
    """
    path = Path(out)
    if path.is_dir():
        path /= f"{quote(task, safe='')}-{number}.tar.gz"
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            yield file, path
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""What both clients share around their connections: options, and where a download goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from manyhats_client._version import __version__
from manyhats_client.choices import Seconds
from manyhats_client.errors import from_transport

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 60.0  # seconds


def settings(
    base_url: str | None, api_key: str | None, timeout: Seconds, headers: Mapping[str, str] | None
) -> dict[str, Any]:
    """What `httpx.Client` and `httpx.AsyncClient` are made with."""
    url = httpx.URL(base_url or os.environ.get("MANYHATS_URL") or DEFAULT_URL)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"the server's address must look like {DEFAULT_URL}, not {str(url)!r}")
    merged = httpx.Headers({"User-Agent": f"manyhats-client/{__version__}", "Accept": "application/json, */*;q=0.5"})
    key = (os.environ.get("MANYHATS_KEY", "") if api_key is None else api_key).strip()
    if key:
        # httpx would take letters of ASCII alone
        merged.update({b"Authorization": f"Bearer {key}".encode()})
    merged.update(headers)
    return {"base_url": url, "headers": merged, "timeout": timeout}


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


def body_length(response: httpx.Response) -> int | None:
    """How many bytes an answer has, where it says so and is not compressed on its way."""
    if "Content-Encoding" in response.headers:
        return None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None

"""What is sent of an adapter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from manyhats_client.packing import Part, Source, archive_part, file_parts, opened

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# How they begin.
_MAGIC = {b"PK\x03\x04": ".zip", b"\x1f\x8b": ".tar.gz"}

Adapter = Source | Mapping[str, Source]
"""A folder's or an archive's path, an archive's bytes or open file, or files by the name that each is to have, with `/`
between folders."""

Examples = Source | Iterable[Mapping[str, Any]]
"""Labelled examples: a file of JSON lines, its bytes, or the rows."""


def open_parts(adapter: Adapter, stack: ExitStack) -> list[Part]:
    """Opens what is to be sent; `stack` closes it.

    A folder's files become parts named `files`; a folder with subfolders is packed and becomes one
    `archive`, as does an archive file. Hidden files and folders (`.git`, `.DS_Store`) are left out. Of
    a mapping all files are sent. Raises ValueError for what is no adapter, OSError for what cannot be read.
    """
    if isinstance(adapter, Mapping):
        if not adapter:
            raise ValueError("there are no files to send")
        return file_parts("adapter", adapter, stack)
    if not isinstance(adapter, str | os.PathLike):
        file = opened(adapter, stack)
        return archive_part(_name_of(adapter, file), file)
    path = Path(adapter)
    if path.is_dir():
        files = sorted(_files(path))
        if not files:
            raise ValueError(f"{path} has no files")
        return file_parts(path.resolve().name, {file.as_posix(): path / file for file in files}, stack)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if not path.name.lower().endswith(ARCHIVES):
        raise ValueError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)})")
    return archive_part(path.name, opened(path, stack))


def examples_part(examples: Examples, stack: ExitStack) -> list[Part]:
    """Labelled examples as a part of an upload; `stack` closes what is opened. Raises OSError."""
    if isinstance(examples, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(examples, "read"):
        file = opened(cast(Source, examples), stack)
    else:
        file = BytesIO("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in examples).encode())
    return [("examples", ("examples.jsonl", file, "application/jsonl"))]


def _name_of(given: object, file: BinaryIO) -> str:
    """The name of an archive that is open: its own, or one after how it begins."""
    own = getattr(given, "name", None)
    if isinstance(own, str) and own.lower().endswith(ARCHIVES):
        return os.path.basename(own)
    file.seek(0)
    start = file.read(max(map(len, _MAGIC)))
    file.seek(0)
    for magic, ending in _MAGIC.items():
        if start.startswith(magic):
            return f"adapter{ending}"
    raise ValueError(
        "bytes and open files are an archive (zip, tar.gz), or a mapping of them by the files' names; this is neither"
    )


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (here / name).is_symlink():
                raise ValueError(f"{here / name} is a link to a folder, and such links are not followed")
        yield from ((here / name).relative_to(folder) for name in names if not name.startswith("."))

"""The parts of an upload: one for each file, or one archive."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

Part = tuple[str, tuple[str, BinaryIO, str]]
"""The part's name, and its file name, open file and content type."""

_TYPE = "application/octet-stream"


def archive_parts(path: Path, stack: ExitStack) -> list[Part]:
    """An archive as it is. `stack` closes what is opened; raises OSError where it cannot be read."""
    return [("archive", (path.name, stack.enter_context(path.open("rb")), _TYPE))]


def folder_parts(folder: Path, files: Mapping[str, Path], stack: ExitStack) -> list[Part]:
    """A folder's files as parts named `files`, or packed as one `archive` where some are to lie in subfolders.

    `files`: by the name that each is to have there, with `/` between folders; of links, the content. `stack` closes
    what is opened. Raises OSError for a file that cannot be read.
    """
    if any("/" in name for name in files):
        packed = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        _pack(files, packed)
        return [("archive", (f"{folder.resolve().name}.tar.gz", packed, _TYPE))]
    return [("files", (name, stack.enter_context(file.open("rb")), _TYPE)) for name, file in files.items()]


def _pack(files: Mapping[str, Path], out: BinaryIO) -> None:
    """A tar.gz that depends on names and contents alone: no times, no owners."""
    # Weights hardly shrink, so the fastest level.
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, path in files.items():
            with path.open("rb") as file:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(file.fileno()).st_size
                tar.addfile(entry, file)
    out.seek(0)

"""The parts of an upload: one for each file, or one archive."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Part = tuple[str, tuple[str, BinaryIO, str]]
"""The part's name, and its file name, open file and content type."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A file: its path, its bytes, or it opened in binary mode, which is read from its beginning."""

_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is sent. `again`: whether it can be sent a second time, as it cannot from a pipe."""

    parts: Sequence[Part]
    again: bool = True


def opened(source: Source, stack: ExitStack) -> BinaryIO:
    """A file to read; `stack` closes what is opened here. Raises OSError, and ValueError for text."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(Path(source).open("rb"))
    if isinstance(source, io.TextIOBase):
        raise ValueError("a file to upload is opened in binary mode ('rb')")
    return source


def archive_part(name: str, file: BinaryIO) -> Parts:
    """An archive as it is."""
    return Parts([("archive", (name, file, _TYPE))], _seekable(file))


def file_parts(name: str, files: Mapping[str, Source], stack: ExitStack) -> Parts:
    """Files as parts named `files`, or packed as one `archive`, `name`.tar.gz, where some are to lie in subfolders.

    `files`: by the name that each is to have, with `/` between folders; of links, the content. `stack` closes
    what is opened. Raises OSError for a file that cannot be read.
    """
    if any("/" in name for name in files):
        packed = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        _pack(files, packed)
        return archive_part(f"{name}.tar.gz", packed)
    found = [(name, opened(file, stack)) for name, file in files.items()]
    return Parts([("files", (name, file, _TYPE)) for name, file in found], all(_seekable(file) for _, file in found))


def _seekable(file: BinaryIO) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if seekable is not None else hasattr(file, "seek")


def _pack(files: Mapping[str, Source], out: BinaryIO) -> None:
    """A tar.gz that depends on names and contents alone: no times, no owners."""
    # Weights hardly shrink, so the fastest level.
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, source in files.items():
            with ExitStack() as stack:
                file = opened(source, stack)
                entry = tarfile.TarInfo(name)
                if not _seekable(file):  # a tar has the size first
                    whole = stack.enter_context(tempfile.TemporaryFile())
                    while chunk := file.read(1 << 20):
                        whole.write(chunk)
                    file = whole
                entry.size = file.seek(0, os.SEEK_END)
                file.seek(0)
                tar.addfile(entry, file)
    out.seek(0)

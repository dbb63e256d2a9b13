"""The parts of an upload: one for each file, or one archive."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

Part = tuple[str, tuple[str, BinaryIO, str]]
"""The part's name, and its file name, open file and content type."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A file: its path, its bytes, or it opened in binary mode, which is read from its beginning."""

_TYPE = "application/octet-stream"


def opened(source: Source, stack: ExitStack) -> BinaryIO:
    """A file to read; `stack` closes what is opened here. Raises OSError, and ValueError for text.

    What cannot be read twice, such as a pipe, is copied to a file first: its length is sent before it, and it may have
    to be sent again.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(Path(source).open("rb"))
    if isinstance(source, io.TextIOBase):
        raise ValueError("a file to upload is opened in binary mode ('rb')")
    if not source.seekable():
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        shutil.copyfileobj(source, copy, 1 << 20)
        return copy
    return source


def archive_part(name: str, file: BinaryIO) -> list[Part]:
    """An archive as it is."""
    return [("archive", (name, file, _TYPE))]


def file_parts(name: str, files: Mapping[str, Source], stack: ExitStack) -> list[Part]:
    """Files as parts named `files`, or packed as one `archive`, `name`.tar.gz, where some are to lie in subfolders.

    `files`: by the name that each is to have, with `/` between folders; of links, the content. `stack` closes
    what is opened. Raises OSError for a file that cannot be read.
    """
    if any("/" in name for name in files):
        packed = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        _pack(files, packed)
        return archive_part(f"{name}.tar.gz", packed)
    return [("files", (name, opened(file, stack), _TYPE)) for name, file in files.items()]


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
                entry.size = file.seek(0, os.SEEK_END)
                file.seek(0)
                tar.addfile(entry, file)
    out.seek(0)

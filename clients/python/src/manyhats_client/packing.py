"""From a path to the parts of an upload."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

Part = tuple[str, tuple[str, BinaryIO, str]]
"""The part's name, and its file name, open file and content type."""

_ARCHIVES = (".zip", ".tar.gz", ".tgz")
_TYPE = "application/octet-stream"


def open_parts(path: str | os.PathLike[str], stack: ExitStack) -> list[Part]:
    """Opens what is to be sent; `stack` closes it.

    A folder's files become parts named `files`; a folder with subfolders is packed and becomes one
    `archive`, as does an archive file. Hidden files and folders (`.git`, `.DS_Store`) are left out.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(_files(path))
        if not files:
            raise ValueError(f"{path} has no files")
        if any(len(file.parts) > 1 for file in files):
            packed = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            _pack(path, files, packed)
            return [("archive", (f"{path.resolve().name}.tar.gz", packed, _TYPE))]
        opened = [stack.enter_context((path / file).open("rb")) for file in files]
        return [("files", (file.name, data, _TYPE)) for file, data in zip(files, opened, strict=True)]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if not path.name.lower().endswith(_ARCHIVES):
        raise ValueError(f"{path} is neither a folder nor an archive ({', '.join(_ARCHIVES)})")
    return [("archive", (path.name, stack.enter_context(path.open("rb")), _TYPE))]


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (here / name).is_symlink():
                raise ValueError(f"{here / name} is a link to a folder, and such links are not followed")
        yield from ((here / name).relative_to(folder) for name in names if not name.startswith("."))


def _pack(folder: Path, files: list[Path], out: BinaryIO) -> None:
    """A tar.gz that depends on names and contents alone: no times, no owners."""
    # Weights hardly shrink, so the fastest level.
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in files:
            with (folder / name).open("rb") as file:
                entry = tarfile.TarInfo(name.as_posix())
                entry.size = os.fstat(file.fileno()).st_size
                tar.addfile(entry, file)
    out.flush()

"""What is sent of a path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from manyhats_client.packing import Part, archive_parts, folder_parts

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")

Files = Mapping[str, str | os.PathLike[str]]
"""Files by the name that each is to have, with `/` between folders."""


def open_parts(path: str | os.PathLike[str] | Files, stack: ExitStack) -> list[Part]:
    """Opens what is to be sent; `stack` closes it.

    A folder's files become parts named `files`; a folder with subfolders is packed and becomes one
    `archive`, as does an archive file. Hidden files and folders (`.git`, `.DS_Store`) are left out. Of
    a mapping all files are sent.
    """
    if isinstance(path, Mapping):
        if not path:
            raise ValueError("there are no files to send")
        return folder_parts(Path("adapter"), {name: Path(file) for name, file in path.items()}, stack)
    path = Path(path)
    if path.is_dir():
        files = sorted(_files(path))
        if not files:
            raise ValueError(f"{path} has no files")
        return folder_parts(path, {file.as_posix(): path / file for file in files}, stack)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if not path.name.lower().endswith(_ARCHIVES):
        raise ValueError(f"{path} is neither a folder nor an archive ({', '.join(_ARCHIVES)})")
    return archive_parts(path, stack)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (here / name).is_symlink():
                raise ValueError(f"{here / name} is a link to a folder, and such links are not followed")
        yield from ((here / name).relative_to(folder) for name in names if not name.startswith("."))

"""Adapters by their paths on this machine, from folders that the operator has allowed, and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from manyhats.errors import NotFound, PermissionDenied, TooLarge
from manyhats.registry.folders import FolderFiles, adapter_folder, read_folder


def find_adapter(path: str, allowed: Sequence[Path]) -> Path:
    """The folder at an absolute path, its links resolved.

    A path that does not lie below one of the `allowed` folders is refused before the disk is looked at. Raises
    PermissionDenied for such a path, and for one that a link leads out of them; NotFound where no folder is.
    """
    if not allowed:
        raise PermissionDenied("no folder is allowed to be read; the setting adapter_folders names some", param="path")
    plain = Path(os.path.normpath(path)) if "\0" not in path else Path()
    roots = [(Path(os.path.abspath(folder)), Path(os.path.realpath(folder))) for folder in allowed]
    if not plain.is_absolute() or not any(plain.is_relative_to(root) for both in roots for root in both):
        raise PermissionDenied(f"the path '{path[:200]}' lies in none of the folders that may be read", param="path")
    real = Path(os.path.realpath(plain))
    _check_inside(real, [root for _, root in roots], path)
    found = adapter_folder(real) if real.is_dir() else None
    if found is None:
        raise NotFound(f"no adapter was found at '{path[:200]}'", param="path")
    return found


def read_adapter_folder(
    folder: Path, allowed: Sequence[Path], forbidden: Path, *, max_files: int, max_bytes: int
) -> FolderFiles:
    """The files of a folder that `find_adapter` has found.

    `forbidden`: the server's own files. Raises PermissionDenied where a link among them leads out of the allowed
    folders, TooLarge over a limit, what `FolderFiles.chosen` raises, and OSError.
    """
    files = read_folder(folder, forbidden)
    chosen, _ = files.chosen()
    roots = [Path(os.path.realpath(root)) for root in allowed]
    for name, source in chosen.items():
        _check_inside(Path(os.path.realpath(source)), roots, name)
    if len(chosen) > max_files:
        raise TooLarge(f"the folder holds {len(chosen)} files; at most {max_files} are taken in", param="path")
    if files.size() > max_bytes:
        raise TooLarge(f"the folder holds {files.size()} bytes; at most {max_bytes} are taken in", param="path")
    return files


def _check_inside(real: Path, roots: Sequence[Path], named: str) -> None:
    if not any(real.is_relative_to(root) for root in roots):
        raise PermissionDenied(f"a link leads from '{named[:200]}' out of the folders that may be read", param="path")

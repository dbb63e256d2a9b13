"""What is in an adapter's folder: which files, and the digest that names it."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from manyhats import own_pages
from manyhats.disk import full_disk_as_storage_full
from manyhats.errors import InvalidRequest, UnsupportedFormat
from manyhats.formats.contents import entries_below, leave_out, names_of
from manyhats.formats.pickles import FIRST_BYTES
from manyhats.formats.tensor_file import check_start

_STEP = 2 << 20  # bytes of a file that are read and hashed at a time


def storage_full() -> AbstractContextManager[None]:
    """Raises StorageFull in place of the error of a full disk."""
    return full_disk_as_storage_full(
        lambda error: f"the store has no room: {error.strerror if isinstance(error, OSError) else error}"
    )


def keep_adapter_files(folder: Path) -> tuple[str, ...]:
    """Removes from a staged folder what is no adapter's file, as what a trainer left; returns the warnings.

    Raises UnsupportedFormat for links and for weights in a pickle, InvalidRequest where there are no files or several
    adapters.
    """
    entries = [entry for _, entry in entries_below(folder)]
    for entry in entries:
        if entry.is_symlink():
            raise UnsupportedFormat(f"'{entry.name}' is a link, not a file", param=entry.name)
    if not any(entry.is_file() for entry in entries):
        raise InvalidRequest("the upload holds no files", param="files")
    return leave_out(folder)


def check_first_bytes(name: str, start: bytes) -> None:
    """Checks the beginning of a file of an upload while the rest is on its way. Raises what `check_start` raises."""
    if len(start) >= FIRST_BYTES:  # what is shorter is damaged, and said so later
        check_start(name, start[:FIRST_BYTES])


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a content. `name`: its path in the folder, with slashes; `size` in bytes; `sha256` of its bytes."""

    name: str
    size: int
    sha256: str


def listing(folder: Path) -> bytes:
    """The sorted (relative path, size, sha256 of the content) of a folder's files; what `digest` is the sha256 of."""
    lines = []
    for name in sorted(names_of(folder), key=lambda name: name.split("/")):
        with (folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = _sha256(file, size)
        lines.append(f"{len(name.encode())}:{name}:{size}:{content}\n".encode())
    return b"".join(lines)


def _sha256(file: BinaryIO, size: int) -> str:
    """The digest of an open file of `size` bytes, in few and large steps: the interpreter's lock is taken again after
    each, and loading an adapter, which another thread does meanwhile, seldom gives it away."""
    found = hashlib.sha256()
    buffer: Any = own_pages.empty(min(size, _STEP) or 1).numpy()
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        found.update(buffer[:count])
    return found.hexdigest()


def digest(folder: Path) -> str:
    """The name of a folder's content: sha256 over its `listing`."""
    return hashlib.sha256(listing(folder)).hexdigest()


def parse_listing(data: bytes) -> list[ListedFile]:
    """The files that a `listing` names. Raises ValueError where it is none, or a name leads out of its folder."""
    files: list[ListedFile] = []
    while data:
        length, _, data = data.partition(b":")
        name, data = data[: int(length)].decode(), data[int(length) + 1 :]
        rest, _, data = data.partition(b"\n")
        size, _, sha256 = rest.partition(b":")
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ValueError(f"a file cannot be called {name[:100]!r}")
        files.append(ListedFile(name, int(size), sha256.decode()))
    return files

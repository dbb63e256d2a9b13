"""The files of adapters: folders named by their content's sha256, put in place by one rename.

<store>/.manyhats/blobs/<sha256>/      immutable
<store>/.manyhats/staging/<id>/        uploads on their way; emptied at every start
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from manyhats.disk import full_disk_as_storage_full, is_full
from manyhats.errors import InvalidRequest, UnsupportedFormat
from manyhats.formats.contents import leave_out
from manyhats.formats.pickles import FIRST_BYTES
from manyhats.formats.tensor_file import check_start


def storage_full() -> AbstractContextManager[None]:
    """Raises StorageFull in place of the error of a full disk."""
    return full_disk_as_storage_full(
        lambda error: f"the store has no room: {error.strerror if isinstance(error, OSError) else error}"
    )


class Blobs:
    """The blob store in a folder. Safe from many threads: names are content, and every step is one rename."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._staging = root / "staging"

    def open(self) -> None:
        """Makes the folders."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder for files on their way, removed at the end. Raises StorageFull where the disk is full."""
        folder = self._staging / uuid.uuid4().hex
        try:
            with storage_full():
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def empty(self) -> bool:
        """Whether there is no blob."""
        return not any(self._blobs.iterdir())

    def path(self, sha256: str) -> Path:
        """The folder of a blob."""
        return self._blobs / sha256

    def present(self) -> set[str]:
        """The names of all blobs."""
        with os.scandir(self._blobs) as entries:
            return {entry.name for entry in entries if entry.is_dir()}

    def fault(self, sha256: str) -> str | None:
        """Why a blob's files are not those that were kept, read anew; None where they are."""
        folder = self.path(sha256)
        if not folder.is_dir():
            return "their folder is gone"
        try:
            found = digest(folder)
        except OSError as error:
            return f"they cannot be read: {error.strerror}"
        return None if found == sha256 else f"what was stored has changed: its sha256 is now {found}"

    def signature(self, sha256: str) -> object:
        """What changes with a blob's files, without reading them; None where there is none."""
        folder = self.path(sha256)
        try:
            stats = [(path.name, path.stat()) for path in sorted(folder.rglob("*"))] if folder.is_dir() else None
        except OSError:
            return object()  # equal to nothing else, so that the files are read again
        return stats and [(name, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]

    def keep(self, folder: Path, sha256: str, *, replace: bool = False) -> None:
        """Moves a staged folder, whose digest is `sha256`, into place; content that is there already stays.

        `replace`: what is there is damaged, and leaves by one rename. When this returns, the files are on the disk.
        """
        target = self.path(sha256)
        if replace or not target.exists():
            for path in folder.rglob("*"):
                _sync(path)
            _sync(folder)
            aside = self._set_aside(sha256) if replace else None
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another upload of the same content was first
                    raise
            _sync(self._blobs)
            if aside is not None:
                _delete(aside)

    def remove(self, sha256: str) -> None:
        """Takes a blob away: out of its place by one rename, then file by file."""
        removed = self._set_aside(sha256)
        if removed is not None:
            _delete(removed)

    def _set_aside(self, sha256: str) -> Path | None:
        """Moves a blob out of its place. The new place, or None where there was no blob."""
        aside = self._staging / uuid.uuid4().hex
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not is_full(error):
                raise
            return self.path(sha256)  # a full disk may have no space for a name in another folder
        return aside

    def clean(self, known: set[str]) -> None:
        """Removes what a killed process left: staged files, and blobs that no version names."""
        for path in self._staging.iterdir():
            _delete(path)
        for folder in self._blobs.iterdir():
            if folder.name not in known:
                self.remove(folder.name)


def keep_adapter_files(folder: Path) -> tuple[str, ...]:
    """Removes from a staged folder what is no adapter's file, as what a trainer left; returns the warnings.

    Raises UnsupportedFormat for links and for weights in a pickle, InvalidRequest where there are no files or several
    adapters.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise UnsupportedFormat(f"'{path.name}' is a link, not a file", param=path.name)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise InvalidRequest("the upload holds no files", param="files")
    return leave_out(folder)


def check_first_bytes(name: str, start: bytes) -> None:
    """Checks the beginning of a file of an upload while the rest is on its way. Raises what `check_start` raises."""
    if len(start) >= FIRST_BYTES:  # what is shorter is damaged, and said so later
        check_start(name, start[:FIRST_BYTES])


def digest(folder: Path) -> str:
    """sha256 over the sorted (relative path, size, sha256 of the content) of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        total.update(f"{len(name.encode())}:{name}:{path.stat().st_size}:{content}\n".encode())
    return total.hexdigest()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Has the operating system write a file or folder to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Contents in folders named by their sha256, put in place by one rename.

<root>/blobs/<sha256>/      immutable
<root>/staging/<id>/        uploads on their way
<root>/unneeded/<sha256>    since when nobody needs a content, by the file's time
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from manyhats.disk import is_full
from manyhats.errors import ConfigurationError
from manyhats.formats.contents import entries_below
from manyhats.registry.blobs.base import Leftover
from manyhats.registry.blobs.contents import digest, storage_full

_OWNER = "owner"


class LocalBlobs:
    """The blob store in a folder. Safe from many threads: names are content, and every step is one rename.

    `shared`: other servers use the same folder.
    """

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        self.shared = shared
        self.in_use: Callable[[], Collection[str]] = tuple
        self._root = root
        self._blobs = root / "blobs"
        self._staging = root / "staging"
        self._unneeded = root / "unneeded"

    def open(self) -> None:
        """Makes the folders."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Nothing is to be ended."""

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

    # ---- reading

    def empty(self) -> bool:
        """Whether there is no blob."""
        return not any(self._blobs.iterdir())

    def path(self, sha256: str) -> Path:
        """The folder of a blob."""
        return self._blobs / sha256

    def missing(self, contents: set[str]) -> set[str]:
        """Those of the contents that have no folder."""
        with os.scandir(self._blobs) as entries:
            return contents - {entry.name for entry in entries if entry.is_dir()}

    def fetch(self, contents: Iterable[str], then: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """They are here."""
        then()

    @contextmanager
    def reading(self, sha256: str) -> Iterator[Path]:
        """The folder of a blob."""
        yield self.path(sha256)

    def fault(self, sha256: str) -> str | None:
        """Why a blob's files are not those that were kept, read anew; None where they are."""
        folder = self.path(sha256)
        return fault_of(folder, sha256) if folder.is_dir() else "their folder is gone"

    def signature(self, sha256: str) -> object:
        """What changes with a blob's files, without reading them; None where there is none."""
        return signature_of(self.path(sha256))

    def is_damaged(self, sha256: str) -> bool:
        """Whether there is a content of that digest, and not with its bytes."""
        return os.path.lexists(self.path(sha256)) and self.fault(sha256) is not None

    # ---- writing

    def put(self, folder: Path, sha256: str) -> None:
        """Staged files lie beside the blobs: a rename is all that they need, and `keep` does it."""

    def keep(self, folder: Path, sha256: str, *, replace: bool = False) -> None:
        """Moves a staged folder, whose digest is `sha256`, into place; content that is there already stays.

        `replace`: what is there is damaged, and leaves by one rename. When this returns, the files are on the disk.
        """
        target = self.path(sha256)
        if not replace and _touched(target):  # what is not needed and was put lately is not collected
            return
        for path in folder.rglob("*"):
            _sync(path)
        _sync(folder)
        aside = self._set_aside(sha256) if replace else None
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another upload of the same content was first
                raise
        _touched(target)
        _sync(self._blobs)
        if aside is not None:
            _delete(aside)

    def remove(self, sha256: str) -> None:
        """Takes a blob away: out of its place by one rename, then file by file. A shared one is marked."""
        if self.shared:
            with suppress(OSError):  # without a mark, the first `manyhats gc` makes one
                self.mark(sha256)
            return
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
        """Removes what a killed process left: staged files, and blobs that no version names.

        In a shared folder they may be other servers': there they are left to `manyhats gc`.
        """
        if self.shared:
            return
        for path in self._staging.iterdir():
            _delete(path)
        for folder in self._blobs.iterdir():
            if folder.name not in known:
                self.remove(folder.name)
        shutil.rmtree(self._unneeded, ignore_errors=True)

    def claim(self, owner: str) -> None:
        """Says in a shared folder whose it is. Raises ConfigurationError where it is another database's."""
        path = self._root / _OWNER
        if not path.exists():  # put there whole; of two at once, both look at what is there then
            with self.stage() as folder, suppress(FileExistsError):
                (folder / _OWNER).write_text(owner)
                os.link(folder / _OWNER, path)
        if (found := self.owner()) != owner:
            raise another_owner(str(self._root), found or "", str(path))

    def owner(self) -> str | None:
        """The id of the database whose contents these are; None where none has claimed them."""
        try:
            return (self._root / _OWNER).read_text()
        except FileNotFoundError:
            return None

    # ---- collecting what is not needed

    def stored(self) -> dict[str, float]:
        """When each content was last put, in unix seconds."""
        return _times(self._blobs)

    def marks(self) -> dict[str, float]:
        """Since when each content is marked as not needed, in unix seconds."""
        return _times(self._unneeded)

    def mark(self, sha256: str) -> None:
        """Marks a content as not needed from now on."""
        self._unneeded.mkdir(exist_ok=True)
        (self._unneeded / sha256).touch()

    def unmark(self, contents: Collection[str]) -> None:
        """Takes marks away."""
        for sha in contents:
            (self._unneeded / sha).unlink(missing_ok=True)

    def delete(self, sha256: str, before: float) -> bool:
        """Deletes a content that was not put again since `before`.

        An upload that finds the content first marks the time, which is looked at once more when it is out of its place.
        """
        if _time(self.path(sha256)) > before:
            return False
        aside = self._set_aside(sha256)
        if aside is None:
            return True
        if _time(aside) > before:
            with suppress(OSError):  # the upload has put its own meanwhile
                aside.rename(self.path(sha256))
                return False
        _delete(aside)
        return True

    def cached(self) -> set[str]:
        """There are no copies."""
        return set()

    def forget(self, sha256: str) -> None:
        """There is no copy."""

    def leftovers(self) -> list[Leftover]:
        """What lies in staging."""
        return [Leftover(f"staging/{name}", modified) for name, modified in sorted(_times(self._staging).items())]

    def delete_leftover(self, leftover: Leftover) -> None:
        """Removes it."""
        _delete(self._root / leftover.name)


def another_owner(place: str, found: str, mark: str) -> ConfigurationError:
    """The error where the contents of a place are another database's."""
    return ConfigurationError(
        f"the blobs in '{place}' are those of another database ({found[:64]}); give this one a place of its own. If "
        f"that database is gone, and this one knows its versions, remove '{mark}'"
    )


def fault_of(folder: Path, sha256: str) -> str | None:
    """Why a folder's files do not have this digest, read anew; None where they have."""
    try:
        found = digest(folder)
    except OSError as error:
        return f"they cannot be read: {error.strerror}"
    return None if found == sha256 else f"what was stored has changed: its sha256 is now {found}"


def signature_of(folder: Path) -> object:
    """What changes with a folder's files, without reading them; None where there is none."""
    try:
        if not folder.is_dir():
            return None
        stats = sorted((name, entry.stat()) for name, entry in entries_below(folder))
    except OSError:
        return object()  # equal to nothing else, so that the files are read again
    return [(name, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]


def _touched(folder: Path) -> bool:
    """Whether a folder is there, whose time is now then."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def _time(path: Path) -> float:
    """When a path was changed, in unix seconds; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _times(folder: Path) -> dict[str, float]:
    """When each entry of a folder was changed, in unix seconds."""
    try:
        return {path.name: time for path in folder.iterdir() if (time := _time(path))}
    except FileNotFoundError:
        return {}


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

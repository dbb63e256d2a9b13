"""The files of a folder that an operator put into the store, links among them followed as far as that is safe.

Whoever copies or links a folder into the store decides what is served; but what lies in the folder may come from
anywhere, a cloned repository for instance, and must not publish files of this machine. So a link is followed where it
stays inside the folder (as those of a mounted ConfigMap do) or leads among the blobs of the hub's cache that the folder
belongs to, and elsewhere only for files whose content is checked: JSON and safetensors.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from manyhats.errors import InvalidRequest, TooLarge
from manyhats.formats.contents import CARD, MARKS, Contents, select

_CHECKED = (".json", ".safetensors")
_FILE_LIMIT = 1000
_ENTRY_LIMIT = 10_000
_DEPTH = 8
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OUTSIDE = "a link that leads out of the folder"

Key = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path
    size: int
    changed: int  # ns
    touched: float  # seconds; when anything of it changed, its inode too
    fault: str = ""  # why it cannot be imported


class FolderFiles:
    """What a folder holds, by names with `/` between folders. `touched`: unix seconds of its own last change."""

    def __init__(self, files: dict[str, _File], touched: float, too_many: str = "") -> None:
        self._files = files
        self._touched = touched
        self._too_many = too_many

    @cached_property
    def contents(self) -> Contents:
        """What becomes of the files by their names."""
        return select(self._files)

    @cached_property
    def plain_fingerprint(self) -> str:
        """A digest over names, sizes and times of all files that are no links."""
        return _fingerprint(file for file in self._sorted() if not file.path.is_symlink())

    @cached_property
    def fingerprint(self) -> str:
        """A digest over names, sizes and times of the files that would be imported: a trainer's logs may grow."""
        return _fingerprint(self._needed())

    @cached_property
    def newest(self) -> float:
        """When a file that would be imported was changed last, in unix seconds.

        The inode's change time counts: `cp -p` gives a half copied file its old modification time.
        """
        return max([self._touched, *(file.touched for file in self._needed())])

    def _sorted(self) -> list[_File]:
        return sorted(self._files.values(), key=lambda file: PurePosixPath(file.name))

    def _needed(self) -> list[_File]:
        needed = {*self.contents.kept, *self.contents.refused}
        every = bool(self.contents.several or self._too_many)
        return [file for file in self._sorted() if every or file.name in needed]

    def chosen(self) -> tuple[dict[str, Path], list[str]]:
        """Where each file that is imported goes, and where it lies; and what is left out, with the reasons.

        Raises UnsupportedFormat for a pickle, TooLarge, and InvalidRequest where a needed file cannot be copied.
        """
        if self._too_many:
            raise TooLarge(self._too_many)
        self.contents.check()
        left_out = [self.contents.summary()] if self.contents.left_out else []
        chosen: dict[str, Path] = {}
        for name in self.contents.kept:
            file = self._files[name]
            if not file.fault:
                chosen[self.contents.place(name)] = file.path
            elif PurePosixPath(name).name == CARD:
                left_out.append(f"{name} ({file.fault})")
            else:
                raise InvalidRequest(f"'{name}' is {file.fault}; a copy of the file can be taken in", param=name)
        if not chosen:
            raise InvalidRequest("the folder holds no file of an adapter", param="files")
        return chosen, left_out

    def copy_to(self, staged: Path) -> list[str]:
        """Copies the files that are imported. Returns what is left out, with the reasons.

        Raises what `chosen` raises, and OSError.
        """
        chosen, left_out = self.chosen()
        for place, source in chosen.items():
            target = staged / place
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, target)
        return left_out

    def size(self) -> int:
        """The bytes of the files that would be imported."""
        return sum(file.size for file in self._needed())


def adapter_folder(folder: Path) -> Path | None:
    """The folder itself where an adapter lies in it or one level below; of a model in the hub's cache, the snapshot
    that is the main one; else None. Raises OSError."""
    snapshot = _snapshot(folder)
    if snapshot is not None:
        return snapshot
    places = [folder, *(child for child in folder.iterdir() if child.is_dir())]
    return folder if any(os.path.lexists(place / mark) for place in places for mark in MARKS) else None


def _snapshot(folder: Path) -> Path | None:
    """The main snapshot of a model's folder in the hub's cache."""
    main = folder / "refs" / "main"
    if not (folder / "snapshots").is_dir() or not main.is_file() or main.stat().st_size > 200:
        return None
    revision = main.read_text(encoding="utf-8", errors="replace").strip()
    found = folder / "snapshots" / revision
    return found if _REVISION.fullmatch(revision) and found.is_dir() else None


def read_folder(folder: Path, forbidden: Path) -> FolderFiles:
    """Lists a folder's files, hidden ones left out. Nothing is opened.

    No link may lead into `forbidden`, the server's own files. Raises OSError where the folder cannot be read.
    """
    walk = _Walk(folder, forbidden)
    return FolderFiles(walk.files, folder.stat().st_ctime, walk.too_many)


def _fingerprint(files: Iterable[_File]) -> str:
    total = hashlib.sha256()
    for file in files:
        fault = f"{file.fault}:" if file.fault else ""
        total.update(f"{fault}{file.name}:{file.size}:{file.changed}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


class _Walk:
    """All files below a folder, by their names with `/` between folders."""

    def __init__(self, folder: Path, forbidden: Path) -> None:
        self.files: dict[str, _File] = {}
        self.too_many = ""
        root = Path(os.path.realpath(folder))
        self._inside = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
        self._forbidden = Path(os.path.realpath(forbidden))
        self._entries = 0
        self._read(folder, "", [_key(folder.stat())], linked=folder.is_symlink())

    def _read(self, folder: Path, prefix: str, above: list[Key], linked: bool) -> None:
        """`above`: the folders on the way here; `linked`: whether a link was among them."""
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            self._entries += 1
            if self._entries > _ENTRY_LIMIT or len(self.files) > _FILE_LIMIT:
                self.too_many = f"the folder holds too many files; at most {_FILE_LIMIT} are taken in"
                return
            self._add(entry, prefix + entry.name, above, linked or entry.is_symlink())
            if self.too_many:
                return

    def _add(self, entry: os.DirEntry[str], name: str, above: list[Key], linked: bool) -> None:
        path = Path(entry.path)
        own = entry.stat(follow_symlinks=False)
        try:
            found = entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise
            reasons = {errno.ELOOP: "a link that goes round in a circle", errno.ENOENT: "a link to nothing"}
            self._fault(name, path, own, reasons.get(error.errno or 0, f"a link that cannot be read: {error.strerror}"))
            return
        if stat.S_ISDIR(found.st_mode):
            if _key(found) in above:
                self._fault(name, path, own, "a link to a folder that it lies in")
            elif len(above) > _DEPTH:
                self._fault(name, path, own, f"deeper than {_DEPTH} folders")
            elif linked and self._is_forbidden(path):
                self._fault(name, path, own, "a link to the server's own files")
            else:
                self._read(path, f"{name}/", [*above, _key(found)], linked)
        elif not stat.S_ISREG(found.st_mode):
            self._fault(name, path, own, "neither a file nor a folder")
        else:
            touched = max(found.st_ctime, own.st_ctime)
            fault = self._link_fault(path) if linked else ""
            self.files[name] = _File(name, path, found.st_size, found.st_mtime_ns, touched, fault)

    def _link_fault(self, path: Path) -> str:
        real = Path(os.path.realpath(path))
        if self._is_forbidden(path):
            return "a link to the server's own files"
        if any(real.is_relative_to(inside) for inside in self._inside) or path.suffix.lower() in _CHECKED:
            return ""
        return _OUTSIDE

    def _is_forbidden(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._forbidden)

    def _fault(self, name: str, path: Path, own: os.stat_result, fault: str) -> None:
        self.files[name] = _File(name, path, own.st_size, own.st_mtime_ns, own.st_ctime, fault)


def copy_file(source: Path, target: Path) -> None:
    """Copies a regular file, and nothing that has come into its place meanwhile. Raises OSError."""
    # without O_NONBLOCK a pipe would wait for its writer
    handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no file any more", str(source))
        with target.open("xb") as out:
            while data := file.read(1 << 20):
                out.write(data)


def _key(found: os.stat_result) -> Key:
    return found.st_dev, found.st_ino

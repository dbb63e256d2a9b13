"""Digests of large checkpoints, kept in the user's cache folder between starts.

A digest is the sha256 of float32 values one after the other, which one core computes: most of a minute for 8 billion
weights. It is looked up by a key that no other weights have:

- *Each file's stamps*: size, times of change, and its inode. Whoever writes to a file or puts another in its place
  changes them; the time of the last change of a file's inode (ctime) cannot be set by programs. So another content has
  the same stamps only where it was written within the clock tick of the former: nothing is kept of files that changed
  within the last seconds before they were loaded, or that differ after the digest was computed.
- In the hub's cache a file is a link to a blob named by its content. There its name, size and time of change stand for
  it: inode and ctime are others in every container, and nobody writes to a blob in place.
- *What transformers made of the files*: its version, every weight's name, shape and type, and some of its values. So
  stamps that a file system makes up, or a file that is not among those stamped, are not trusted alone.

The folder's device is not part of the key, which may be another after each boot. A file of the cache that is damaged,
somebody else's or writable for others is not read; where none can be written, each start computes the digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from manyhats.messages import first_line

logger = logging.getLogger(__name__)

_FORMAT = "manyhats digest 1"  # changes with what a digest, or a key, is made of
_WEIGHTS = (".safetensors", ".bin")
_ELSEWHERE = "adapter_config.json"  # with it, transformers loads the weights of another folder
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # a file's sha1 as git has it, or its sha256
_SETTLED = 10.0  # seconds without a change; the coarsest clock of a file system ticks every 2
_VALUES = 256  # of each weight
_ENTRIES = 64
# A link is not followed, and a pipe not waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_HEX = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileStamps:
    """The files of a checkpoint's folder as they are on disk. `settled`: whether none has changed lately."""

    folder: Path
    files: tuple[tuple[str | int, ...], ...]  # each with its name first
    settled: bool

    @classmethod
    def of(cls, folder: Path) -> FileStamps | None:
        """None where the folder does not say which files the weights are in, or one of them is not there."""
        try:
            named = {path.name for path in folder.iterdir()}
            for index in [name for name in named if name.endswith(".index.json")]:
                named |= set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            if _ELSEWHERE in named or not any(name.endswith(_WEIGHTS) for name in named):
                return None
            stats = [(name, folder / name, (folder / name).stat()) for name in sorted(named)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        files = [(name, path, found) for name, path, found in stats if stat.S_ISREG(found.st_mode)]
        newest = max(max(found.st_mtime_ns, found.st_ctime_ns) for _, _, found in files)
        return cls(
            folder,
            tuple((name, *_stamp(path, found)) for name, path, found in files),
            newest < time.time_ns() - int(_SETTLED * 1e9),
        )

    def unchanged(self) -> bool:
        """Whether the folder is still as it was."""
        now = FileStamps.of(self.folder)
        return now is not None and now.files == self.files

    def key(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        """The name under which the digest of `weights`, which were loaded from these files, is kept."""
        total = hashlib.sha256(json.dumps([_FORMAT, transformers.__version__, self.files]).encode())
        for name, tensor in weights:
            total.update(json.dumps([name, tensor.shape, str(tensor.dtype)]).encode())
            flat = tensor.reshape(-1)
            some = flat[:: max(len(flat) // _VALUES, 1)].contiguous()
            total.update(some.view(torch.uint8).numpy().data)
        return total.hexdigest()


def _stamp(path: Path, found: os.stat_result) -> tuple[str | int, ...]:
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and _BLOB.fullmatch(target.name):
        return target.name, found.st_size, found.st_mtime_ns
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class DigestCache:
    """One small file for each key, private to the user. `folder`: None where there is no place for it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls) -> DigestCache:
        """In `$XDG_CACHE_HOME`, else in `~/.cache`."""
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:
            base = given if given.is_absolute() else Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return cls(None)
        return cls(base / "manyhats" / "digests")

    def get(self, key: str) -> str | None:
        """The digest that is kept under a key; None where there is none that can be trusted."""
        if self.folder is None:
            return None
        try:
            if not _private(os.lstat(self.folder), stat.S_IFDIR):
                return None
            with open(os.open(self.folder / key, _FLAGS), "rb") as file:
                if not _private(os.fstat(file.fileno()), stat.S_IFREG):
                    return None
                content = file.read(1024)
        except OSError:
            return None
        found = content[:64]
        return found.decode() if _HEX.fullmatch(found) and content == _content(key, found) else None

    def put(self, key: str, digest: str) -> None:
        """Keeps a digest. Where it cannot be written, the log says so."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _private(os.lstat(self.folder), stat.S_IFDIR):
                raise PermissionError(f"{self.folder} is somebody else's, or others may write to it")
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")  # for its owner alone
            try:
                with open(handle, "wb") as file:
                    file.write(_content(key, digest.encode()))
                os.replace(name, self.folder / key)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._remove_oldest()
        except OSError as error:
            logger.info("the checkpoint's digest is not kept for the next start: %s", first_line(error))

    def _remove_oldest(self) -> None:
        """Leaves so many files as there may be, whatever they are."""
        assert self.folder is not None
        ages: list[tuple[int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another server removes them too
                ages.append((path.lstat().st_mtime_ns, path))
        for _, path in sorted(ages)[:-_ENTRIES]:
            with contextlib.suppress(OSError):
                path.unlink()


def _content(key: str, digest: bytes) -> bytes:
    """A digest and a checksum, so that a file that is damaged or was renamed is not taken for an entry."""
    return digest + b" " + hashlib.sha256(key.encode() + digest).hexdigest().encode() + b"\n"


def _private(found: os.stat_result, kind: int) -> bool:
    """Whether it is of that kind, this user's, and nobody else may write to it."""
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return own and stat.S_IFMT(found.st_mode) == kind and not (os.name == "posix" and found.st_mode & 0o022)

"""Unpacks an uploaded zip or tar into a folder, trusting nothing that it says about itself."""

from __future__ import annotations

import errno
import gzip
import io
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat

_DEPTH = 4
_CHUNK = 1 << 20  # bytes
_TAR_SLACK = 4096  # bytes of headers and padding that each member of a tar may add
_JUNK = ("__MACOSX", ".DS_Store")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Most files, and most bytes of all of them unpacked."""

    max_files: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    plain: bool  # a regular file: no link, no device
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(path: Path, filename: str, into: Path, limits: ArchiveLimits) -> None:
    """Unpacks the archive at `path` (called `filename` by its sender) into the empty folder `into`.

    Where everything lies in one top folder, that folder is left out. Raises InvalidRequest for a damaged archive or a
    name that leads outside, TooLarge over a limit, UnsupportedFormat for anything but zip and tar.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                _write(_zip_members(packed, limits), into, limits)
        else:
            _unpack_tar(path, filename, into, limits)
    except _DAMAGED as error:
        # EINVAL: a zip whose offsets lead before its beginning
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's trouble, not the archive's
        raise InvalidRequest(f"the archive '{filename}' is damaged: {error}", param="archive") from None
    _lift(into)


def _unpack_tar(path: Path, filename: str, into: Path, limits: ArchiveLimits) -> None:
    with path.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    source: IO[bytes]
    with gzip.open(path) if packed else path.open("rb") as source:  # type: ignore[assignment]
        metered = _Metered(source, limits)
        try:
            tar = tarfile.open(fileobj=metered, mode="r:")  # noqa: SIM115 (closed below; opening may fail)
        except tarfile.ReadError:
            raise UnsupportedFormat(f"'{filename}' is neither a zip nor a tar.gz", param="archive") from None
        with tar:
            _write(_tar_members(tar), into, limits)
        if not metered.ended:  # tarfile stops without a word where a header is damaged, or at the end of the file
            raise InvalidRequest(f"the archive '{filename}' is damaged: it ends too early", param="archive")
        while metered.read(_CHUNK):  # gzip's checksum stands at the very end
            pass


class _Metered(io.RawIOBase):
    """A tar's bytes, unpacked, up to a limit.

    tarfile unpacks what it skips as well, and reads long names and extended headers into memory whole.
    """

    def __init__(self, source: IO[bytes], limits: ArchiveLimits) -> None:
        self.ended = False  # whether the last that was read is what stands behind a tar's last member
        self._source = source
        self._max_bytes = limits.max_bytes
        self._end = limits.max_bytes + 4 * limits.max_files * _TAR_SLACK

    def read(self, size: int = -1) -> bytes:
        """Raises InvalidRequest for a header of more than 1 MiB, TooLarge past the limit."""
        if not 0 <= size <= _CHUNK:
            raise InvalidRequest("the archive has a header of more than 1 MiB", param="archive")
        data = self._source.read(size)
        self.ended = data == bytes(tarfile.BLOCKSIZE)
        self._check(self._source.tell())
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises TooLarge past the limit, before anything is unpacked."""
        self._check(offset)
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def _check(self, position: int) -> None:
        if position > self._end:
            raise TooLarge(f"the archive holds more than {self._max_bytes} bytes when unpacked", param="archive")


def _zip_members(packed: zipfile.ZipFile, limits: ArchiveLimits) -> Iterator[_Member]:
    infos = packed.infolist()
    if len(infos) > 4 * limits.max_files:
        raise TooLarge(f"the archive has {len(infos)} entries; at most {limits.max_files} files", param="archive")
    for info in infos:
        if info.flag_bits & 1:
            raise UnsupportedFormat(f"'{info.filename}' in the archive is encrypted", param="archive")
        kind = info.external_attr >> 16 & 0o170000  # the file type, where the zip was made on Unix
        plain = kind in (0, 0o100000)
        # `filename` ends at a NUL; the name as it was sent does not.
        name = info.orig_filename
        yield _Member(name, plain, name.endswith("/"), lambda info=info: packed.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if info.issparse():
            raise InvalidRequest(f"'{info.name}' in the archive is a sparse file", param="archive")

        def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
            file = tar.extractfile(info)
            assert file is not None
            return file

        yield _Member(info.name, info.isreg(), info.isdir(), opened)


def _write(members: Iterable[_Member], into: Path, limits: ArchiveLimits) -> None:
    files = entries = written = 0
    for member in members:
        entries += 1
        if entries > 4 * limits.max_files:
            raise TooLarge(f"the archive has more than {limits.max_files} files", param="archive")
        place = _place(member.name)
        if place is None or member.folder:
            continue
        if not member.plain:
            raise InvalidRequest(f"'{member.name}' in the archive is a link or a device", param="archive")
        files += 1
        if files > limits.max_files:
            raise TooLarge(f"the archive has more than {limits.max_files} files", param="archive")
        target = into / place
        if target.exists():
            raise InvalidRequest(f"'{member.name}' is in the archive twice", param="archive")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidRequest(f"'{member.name}' is both a file and a folder", param="archive") from None
        with member.open() as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > limits.max_bytes:
                    raise TooLarge(
                        f"the archive holds more than {limits.max_bytes} bytes when unpacked", param="archive"
                    )
                out.write(chunk)
    if not files:
        raise InvalidRequest("the archive holds no files", param="archive")


def _place(name: str) -> PurePosixPath | None:
    """Where a member goes, relative to the folder; None for what is left out. Raises InvalidRequest."""
    path = PurePosixPath(name)
    parts = path.parts
    if (
        path.is_absolute()
        or ".." in parts
        or any(bad in name for bad in ("\\", "\0", ":"))
        or any(len(part.encode()) > 255 for part in parts)
    ):
        raise InvalidRequest(f"the archive holds the name {name[:200]!r}, which is not allowed", param="archive")
    if not parts or parts[0] in _JUNK or parts[-1] in _JUNK or parts[-1].startswith("._"):
        return None
    if len(parts) > _DEPTH:
        raise InvalidRequest(f"'{name[:200]}' in the archive lies more than {_DEPTH} folders deep", param="archive")
    return path


def _lift(into: Path) -> None:
    """Moves the content of a lone top folder up."""
    while True:
        entries = list(into.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return
        top = entries[0].rename(into / uuid.uuid4().hex)  # a name that nothing inside it has
        for child in top.iterdir():
            child.rename(into / child.name)
        top.rmdir()

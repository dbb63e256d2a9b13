"""Unpacks an uploaded zip or tar into a folder, trusting nothing that it says about itself.

What an archive holds is known before anything of it is unpacked: names and sizes are checked first, and what is not
wanted is never unpacked.
"""

from __future__ import annotations

import errno
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat
from manyhats.formats.contents import check_size, move_up, select
from manyhats.formats.pickles import FIRST_BYTES
from manyhats.formats.tensor_file import check_start, parse_start, read_start

Choose = Callable[[Mapping[str, int]], Collection[str]]
Begin = Callable[[str, int, IO[bytes]], bytes]

_DEPTH = 4
_ENTRIES = 16  # times the most files: what may stand in an archive, most of it left out
_CHUNK = 1 << 20  # bytes
_HEADERS = 1 << 20  # bytes: a zip's directory, or all headers of a tar
_TAR_SLACK = 4096  # bytes of headers and padding that each member of a tar may add
_JUNK = ("__MACOSX", ".DS_Store")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python unpacks the others without a bound on its memory
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
    size: int  # bytes, as its header says
    plain: bool  # a regular file: no link, no device
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(
    path: Path,
    filename: str,
    into: Path,
    limits: ArchiveLimits,
    choose: Choose | None = None,
    begin: Begin | None = None,
) -> None:
    """Unpacks the archive at `path` (called `filename` by its sender) into the empty folder `into`.

    `choose` is given the sizes of all files by name, and returns the names of those to unpack. `begin` is given each
    of these with its size, reads and checks as much of it as it likes, and returns that. Where everything lies in one
    top folder, that folder is left out. Raises InvalidRequest for a damaged archive or a name that leads outside,
    TooLarge over a limit, UnsupportedFormat for anything but zip and tar, and what `choose` and `begin` raise.
    """
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as raw, zipfile.ZipFile(_Directory(raw)) as packed:
                _write(list(_zip_members(packed, limits)), into, limits, choose, begin)
        else:
            _unpack_tar(path, filename, into, limits, choose, begin)
    except _DAMAGED as error:
        # EINVAL: a zip whose offsets lead before its beginning
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's trouble, not the archive's
        raise InvalidRequest(f"the archive '{filename}' is damaged: {error}", param="archive") from None
    _lift(into)


def unpack_adapter(path: Path, filename: str, into: Path, limits: ArchiveLimits) -> tuple[str, ...]:
    """`unpack` of an adapter's files alone. Returns the warnings about those that are left out, which stay packed.

    Raises what `unpack` and `Contents.check` raise.
    """
    warnings: list[str] = []

    def choose(sizes: Mapping[str, int]) -> set[str]:
        contents = select(sizes)
        contents.check()
        warnings.extend(contents.warnings())
        large = {name: check_size(contents.place(name), sizes[name]) for name in contents.kept}
        warnings.extend(warning for warning in large.values() if warning)
        return {name for name, warning in large.items() if not warning}

    unpack(path, filename, into, limits, choose, _weights_start)
    return tuple(warnings)


def _weights_start(name: str, size: int, source: IO[bytes]) -> bytes:
    """The header of weights, checked before the rest is unpacked: nothing is unpacked that no adapter could hold."""
    if not name.lower().endswith(".safetensors"):
        return b""
    first = source.read(FIRST_BYTES)
    check_start(name, first, size)
    start = read_start(source, name, size, first)
    parse_start(start, name, size)
    return start


class _Directory(io.RawIOBase):
    """A zip's bytes, of which a bounded chunk is read at a time: the directory is read whole, however long it is."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source

    def read(self, size: int = -1) -> bytes:
        """Raises TooLarge for a chunk of more than 1 MiB."""
        data = self._source.read(size if 0 <= size <= _HEADERS else _HEADERS + 1)
        if len(data) > _HEADERS:
            raise TooLarge("the archive's directory is larger than 1 MiB", param="archive")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _unpack_tar(
    path: Path, filename: str, into: Path, limits: ArchiveLimits, choose: Choose | None, begin: Begin | None
) -> None:
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
            members = list(_tar_members(tar, limits))
            if not metered.ended:  # tarfile stops without a word where a header is damaged, or at the end of the file
                raise InvalidRequest(f"the archive '{filename}' is damaged: it ends too early", param="archive")
            metered.in_headers = False
            while metered.read(_CHUNK):  # gzip's checksum stands at the very end
                pass
            _write(members, into, limits, choose, begin)


class _Metered(io.RawIOBase):
    """A tar's bytes, unpacked, up to a limit.

    tarfile unpacks what it skips as well, and reads long names and extended headers into memory whole.
    """

    def __init__(self, source: IO[bytes], limits: ArchiveLimits) -> None:
        self.ended = False  # whether the last that was read is what stands behind a tar's last member
        self.in_headers = True  # whether what is read are headers
        self._source = source
        self._headers = _HEADERS + _ENTRIES * limits.max_files * tarfile.BLOCKSIZE  # bytes of them that are left
        self._max_bytes = limits.max_bytes
        self._end = limits.max_bytes + _ENTRIES * limits.max_files * _TAR_SLACK

    def read(self, size: int = -1) -> bytes:
        """Raises InvalidRequest for headers of more than 1 MiB, TooLarge past the limit."""
        if not 0 <= size <= _CHUNK or (self.in_headers and size > self._headers):
            raise InvalidRequest("the archive has headers of more than 1 MiB", param="archive")
        data = self._source.read(size)
        if self.in_headers:
            self._headers -= len(data)
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
    if len(infos) > _ENTRIES * limits.max_files:
        raise TooLarge(f"the archive has {len(infos)} entries; at most {limits.max_files} files", param="archive")
    for info in infos:
        if info.flag_bits & 1:
            raise UnsupportedFormat(f"'{info.filename[:200]}' in the archive is encrypted", param="archive")
        if info.compress_type not in _METHODS:
            method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
            raise UnsupportedFormat(
                f"'{info.filename[:200]}' in the archive is compressed with {method}; only deflate is supported",
                param="archive",
            )
        kind = info.external_attr >> 16 & 0o170000  # the file type, where the zip was made on Unix
        plain = kind in (0, 0o100000)
        # `filename` ends at a NUL; the name as it was sent does not.
        name = info.orig_filename
        yield _Member(name, info.file_size, plain, name.endswith("/"), lambda info=info: packed.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile, limits: ArchiveLimits) -> Iterator[_Member]:
    for count, info in enumerate(tar):
        if count >= _ENTRIES * limits.max_files:
            raise TooLarge(f"the archive has more than {limits.max_files} files", param="archive")
        if info.issparse():
            raise InvalidRequest(f"'{info.name[:200]}' in the archive is a sparse file", param="archive")
        if info.size < 0:
            raise InvalidRequest(f"'{info.name[:200]}' in the archive has the size {info.size}", param="archive")

        def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
            file = tar.extractfile(info)
            assert file is not None
            return file

        yield _Member(info.name, info.size, info.isreg(), info.isdir(), opened)


def _write(
    members: list[_Member], into: Path, limits: ArchiveLimits, choose: Choose | None, begin: Begin | None
) -> None:
    """Writes the members that are chosen; those that are written first are checked, like all others, before that."""
    found: dict[str, _Member] = {}
    for member in members:
        place = _place(member.name)
        if place is None or member.folder:
            continue
        if not member.plain:
            raise InvalidRequest(f"'{member.name[:200]}' in the archive is a link or a device", param="archive")
        if place.as_posix() in found:
            raise InvalidRequest(f"'{member.name[:200]}' is in the archive twice", param="archive")
        found[place.as_posix()] = member
    folders = {parent.as_posix() for name in found for parent in PurePosixPath(name).parents}
    if both := sorted(folders & found.keys()):
        raise InvalidRequest(f"'{both[0][:200]}' in the archive is both a file and a folder", param="archive")
    if not found:
        raise InvalidRequest("the archive holds no files", param="archive")
    names = found.keys() if choose is None else choose({name: member.size for name, member in found.items()})
    chosen = [(PurePosixPath(name), member) for name, member in found.items() if name in names]
    if len(chosen) > limits.max_files:
        raise TooLarge(f"the archive has more than {limits.max_files} files", param="archive")
    too_large = TooLarge(f"the archive holds more than {limits.max_bytes} bytes when unpacked", param="archive")
    if sum(member.size for _, member in chosen) > limits.max_bytes:
        raise too_large
    left = limits.max_bytes
    for place, member in chosen:
        if len(place.parts) > _DEPTH:
            raise InvalidRequest(
                f"'{member.name[:200]}' in the archive lies more than {_DEPTH} folders deep", param="archive"
            )
        target = into.joinpath(place)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("xb")
        except (FileExistsError, NotADirectoryError):  # two names that the store's file system takes for one
            raise InvalidRequest(f"'{member.name[:200]}' is in the archive twice", param="archive") from None
        with out, member.open() as source:
            if begin is not None:
                left -= out.write(begin(place.name, member.size, source))
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise too_large
                out.write(chunk)


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
    return path


def _lift(into: Path) -> None:
    """Moves the content of a lone top folder up."""
    while True:
        entries = list(into.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return
        move_up(entries[0], into)

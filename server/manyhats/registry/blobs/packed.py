"""A content as one object: a tar, uncompressed, that begins with the listing of its files.

One object is there whole or not at all. The listing's sha256 is the content's name, so that what it says of sizes and
digests is known to be right before any other byte is fetched. Headers of the tar are for people's tools: nothing is
read of them but how long the listing is.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from manyhats.registry.blobs.base import DamagedBlob
from manyhats.registry.blobs.contents import ListedFile, listing, parse_listing

LISTING = ".manyhats-listing"
_BLOCK = 512
_END = 2 * _BLOCK
_LONGEST_LISTING = 4 << 20  # bytes
_FIRST, _CHUNK = 1 << 20, 4 << 20  # bytes of one request

Get = Callable[[int, int], tuple[bytes, int]]  # the bytes from, to before; the object's size


def packed_size(listed: bytes) -> int:
    """The bytes of the tar of a content with this listing."""
    files = sum(len(_header(file.name, file.size)) + _padded(file.size) for file in parse_listing(listed))
    return len(_header(LISTING, len(listed))) + _padded(len(listed)) + files + _END


def pack(folder: Path) -> tuple[int, Callable[[], Iterator[bytes]]]:
    """The size of a folder's tar, and what gives its bytes."""
    listed = listing(folder)

    def chunks() -> Iterator[bytes]:
        yield _header(LISTING, len(listed)) + listed + bytes(_padded(len(listed)) - len(listed))
        for file in parse_listing(listed):
            yield _header(file.name, file.size)
            with (folder / file.name).open("rb") as source:
                while data := source.read(_FIRST):
                    yield data
            yield bytes(_padded(file.size) - file.size)
        yield bytes(_END)

    return packed_size(listed), chunks


def unpack(get: Get, sha256: str, into: Path, reserve: Callable[[int], None]) -> int:
    """Fetches a content's files into an empty folder; the bytes that they take.

    `reserve` is called with these bytes before they are fetched. Raises DamagedBlob where an object has another size
    than the listing says, or a file another digest, and what `get` raises. Never more than the listing's sizes are
    asked for.
    """
    source = _Source(get)
    listed = _read_listing(source, sha256)
    files = parse_listing(listed)
    if source.size != (size := packed_size(listed)):
        raise DamagedBlob(f"the stored object has {source.size} bytes where {size} were put")
    source.limit = size
    total = sum(file.size for file in files)
    reserve(total)
    for file in files:
        source.take(len(_header(file.name, file.size)))
        _copy(source, file, into / file.name)
        source.take(_padded(file.size) - file.size)
    return total


class _Source:
    """The bytes of an object in order. `limit`: as many are asked for at most."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._data = memoryview(b"")
        self._at = 0
        self.size = 0
        self.limit = _FIRST

    def take(self, count: int) -> bytes:
        """The next bytes, all of them."""
        parts = []
        while count:
            part = self.some(count)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def some(self, most: int) -> bytes | memoryview:
        """The next bytes: one at least, and so many at most."""
        if not self._data:
            stop = min(self._at + (_CHUNK if self._at else _FIRST), max(self.limit, self._at + 1))
            data, self.size = self._get(self._at, stop)
            if not data:
                raise DamagedBlob(f"the stored object ends after {self._at} bytes")
            self._data = memoryview(data)[: stop - self._at]
            self._at += len(self._data)
        part, self._data = self._data[:most], self._data[most:]
        return part


def _read_listing(source: _Source, sha256: str) -> bytes:
    damaged = DamagedBlob("what was stored has changed: its listing is another one")
    try:
        size = tarfile.TarInfo.frombuf(source.take(_BLOCK), "utf-8", "strict").size
    except tarfile.TarError:
        raise damaged from None
    if not 0 < size <= _LONGEST_LISTING:
        raise damaged
    source.limit = _BLOCK + _padded(size)
    listed = source.take(size)
    if hashlib.sha256(listed).hexdigest() != sha256:
        raise damaged
    source.take(_padded(size) - size)
    return listed


def _copy(source: _Source, file: ListedFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    left = file.size
    with path.open("xb") as target:
        while left:
            part = source.some(left)
            left -= len(part)
            digest.update(part)
            target.write(part)
    if digest.hexdigest() != file.sha256:
        raise DamagedBlob(f"what was stored has changed: the sha256 of '{os.path.basename(file.name)}' is another one")


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK

"""Reads safetensors files of unknown origin: every bound that a file states is checked before it is used.

    8 bytes    length of the header, little-endian
    header     JSON: each tensor's name with its dtype, shape and offsets in the data; `__metadata__`
    data       the tensors without a gap between them

The library's own reader takes a second for every 20,000 tensors of a header and keeps the interpreter's lock meanwhile.
This one refuses too many tensors at once, and lets other threads run after every tensor.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from manyhats import own_pages
from manyhats.disk import is_full
from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat
from manyhats.formats.pickles import pickle_message, starts_like_pickle
from manyhats.messages import short_name

MAX_HEADER = 16 << 20  # bytes; low-rank pairs on every expert of the largest models take 15 MB
MAX_TENSORS = 100_000
_MAX_HEADER_EVER = 100_000_000  # bytes of a header, by the format itself
_KEPT_HEADERS, _KEPT_HEADER = 32, 64 << 10  # how many headers are kept parsed, and the bytes of the longest
_MAX_NAME = 1024  # characters
_MAX_DIMENSIONS = 8
_CHUNK = 4 << 20  # bytes that are checked at a time
_WIDEST = 8  # bytes of a value
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Types other than floats, by the endings of the tensors' names: indices, and masks' bits.
_INTEGER_TYPES = {
    "I32": (torch.int32, ("indices", ":ids")),
    "I64": (torch.int64, ("indices", ":ids")),
    "U8": (torch.uint8, ("mask",)),
}
_OTHERS = {"BOOL", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "U32", "U64", "C64", "F4"}

# The folder whose files nobody else can change, so that they may be mapped.
_own_folder: ContextVar[Path | None] = ContextVar("own_folder", default=None)


class Entry(NamedTuple):
    """One tensor of a file. `start` and `end`: bytes within the data."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@contextmanager
def mapped(folder: Path) -> Iterator[None]:
    """Within it, the tensors of `folder` are views of mapped files in place of copies.

    For files that nobody else can change: one that is truncated while it is mapped would end the process.
    """
    token = _own_folder.set(folder)
    try:
        yield
    finally:
        _own_folder.reset(token)


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in host memory; views of the mapped file within `mapped`.

    Raises InvalidRequest for a file that is damaged or holds what cannot be used, TooLarge for one with too many
    tensors, OSError where a full disk has no space for the copy of tensors that are not aligned.
    """
    own = _own_folder.get()
    try:
        with path.open("rb") as file:
            entries, begin = read_header(file, path.name)
            if own is not None and path.is_relative_to(own):
                return _views(path, file, entries, begin, own.parent)
            return _copies(file, entries, begin, path.name)
    except OSError as error:
        if is_full(error):
            raise
        raise _damaged(path.name, str(error)) from None


def read_header(file: BinaryIO, name: str) -> tuple[list[Entry], int]:
    """The tensors that a file says it has, in the order of its data, and where the data begins.

    Raises InvalidRequest where that is not a whole safetensors file, TooLarge over a limit.
    """
    size = os.fstat(file.fileno()).st_size
    start = read_start(file, name, size)
    return parse_start(start, name, size), len(start)


def read_start(source: IO[bytes], name: str, size: int, already_read: bytes = b"") -> bytes:
    """The bytes before a file's data, from a source of `size` bytes, of which the bytes `already_read` are read.

    Raises what `read_header` raises.
    """
    start = already_read + source.read(max(8 - len(already_read), 0))
    length = check_length(start, name, size)
    start += source.read(max(8 + length - len(start), 0))
    if len(start) != 8 + length:
        raise _damaged(name, "it ends too early")
    return start


def check_length(start: bytes, name: str, size: int | None = None) -> int:
    """The length of a file's header in bytes, by the file's first eight. Raises what `read_header` raises."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or (size is not None and length > size - 8):
        raise _damaged(name, f"its header would be {length} bytes long, but the file has {size or len(start)}")
    if length > _MAX_HEADER_EVER:
        raise _damaged(name, f"its header would be {length} bytes long")
    if length > MAX_HEADER:
        raise TooLarge(f"the header of {name} is {length} bytes long; at most {MAX_HEADER} are read", param=name)
    return length


def check_start(name: str, start: bytes, size: int | None = None) -> None:
    """Checks what a file's first `FIRST_BYTES` tell, before the rest is written. `size`: the file's, where it is known.

    Raises UnsupportedFormat for a pickle by the name of safetensors, InvalidRequest or TooLarge for a length of its
    header that cannot be.
    """
    if not name.lower().endswith(".safetensors"):
        return
    if starts_like_pickle(start):
        raise UnsupportedFormat(pickle_message(short_name(name)), param=name)
    check_length(start, name, size)


def parse_start(start: bytes, name: str, size: int) -> list[Entry]:
    """The tensors of a file of `size` bytes, by what `read_start` gave. Raises what `read_header` raises."""
    # Adapters that one recipe trained have the same header, byte by byte.
    return list((_parsed_once if len(start) <= _KEPT_HEADER else _parsed)(start, name, size))


def _parsed(start: bytes, name: str, size: int) -> tuple[Entry, ...]:
    # Each tensor is one object with two lists. Counting costs nothing compared with parsing.
    if start.count(b"{", 8) > MAX_TENSORS + 2 or start.count(b"[", 8) > 2 * MAX_TENSORS:
        raise TooLarge(f"{name} has more than {MAX_TENSORS} tensors", param=name)
    try:
        found = dict[str, Any]()
        for key, value in _items(start[8:].decode("utf-8")):
            if key in found:
                raise _damaged(name, f"'{key[:200]}' stands in its header twice")
            found[key] = value
        found.pop("__metadata__", None)
        entries = [_entry(key, value, name) for key, value in found.items()]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise _damaged(name, f"its header cannot be read: {error!r:.200}") from None
    entries.sort(key=lambda entry: (entry.start, entry.end))
    end = 0
    for entry in entries:
        if entry.start != end:
            raise _damaged(name, f"'{entry.name}' begins at byte {entry.start} of the data, not at {end}")
        end = entry.end
    if end != size - len(start):
        raise _damaged(name, f"its tensors take {end} bytes, but {size - len(start)} follow the header")
    return tuple(entries)


_parsed_once = lru_cache(_KEPT_HEADERS)(_parsed)


def _items(text: str) -> Iterator[tuple[str, Any]]:
    """The fields of a JSON object, one at a time. Raises ValueError."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_short_int)
    at = _expect(text, 0, "{")
    if _blank(text, at, "}"):
        return
    while True:
        at = _expect(text, at, '"')
        key, at = scanstring(text, at, True)
        at = _expect(text, at, ":")
        value, at = decoder.raw_decode(text, _skip(text, at))
        yield key, value
        if _blank(text, at, "}"):
            return
        at = _expect(text, at, ",")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands twice in one object")
    return found


def _short_int(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _expect(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"there is no {mark} at {at}")
    return at + 1


def _blank(text: str, at: int, mark: str) -> bool:
    """Whether `mark` is next, and nothing but spaces behind it."""
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        return False
    if text[at + 1 :].strip(" \n\r\t"):
        raise ValueError("something stands behind the end")
    return True


def _entry(name: str, fields: dict[str, Any], file: str) -> Entry:
    dtype, shape, (start, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
    if len(name) > _MAX_NAME:
        raise InvalidRequest(f"{file} has a tensor whose name is {len(name)} characters long", param=file)
    name.encode()  # half a surrogate pair is no text
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(f"'{name}' has the shape {str(shape)[:100]} and the place {start!s:.30}:{end!s:.30}")
    kind = _FLOATS.get(dtype)
    if kind is None and dtype in _INTEGER_TYPES and name.endswith(_INTEGER_TYPES[dtype][1]):
        kind = _INTEGER_TYPES[dtype][0]
    if kind is None:
        if dtype not in _OTHERS | _INTEGER_TYPES.keys():
            raise ValueError(f"'{name}' has the unknown type {str(dtype)[:50]}")
        raise InvalidRequest(f"'{name}' in {file} has the type {dtype}, which is not supported", param=name)
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidRequest(f"'{name}' in {file} has {len(shape)} dimensions", param=name)
    if math.prod(shape) * kind.itemsize != end - start:
        raise ValueError(f"'{name}' of shape {shape} takes other than the {end - start} bytes of its place")
    return Entry(name, kind, tuple(shape), start, end)


def _copies(file: BinaryIO, entries: list[Entry], begin: int, name: str) -> dict[str, Tensor]:
    """Views of one buffer for all neighbours of one type, which are read and checked together."""
    tensors: dict[str, Tensor] = {}
    for dtype, group in itertools.groupby(entries, key=lambda entry: entry.dtype):
        run = list(group)
        first = run[0].start
        buffer = own_pages.empty(run[-1].end - first)
        if dtype.is_floating_point:
            _check_run(file, run, begin, buffer, name, whole=True)
        elif len(buffer):
            file.seek(begin + first)
            _fill(file, buffer, name)
        typed = buffer.view(dtype)
        for entry in run:
            at = (entry.start - first) // dtype.itemsize
            tensors[entry.name] = typed.as_strided(entry.shape, _strides(entry.shape), at)
    return tensors


def _views(path: Path, file: BinaryIO, entries: list[Entry], begin: int, temporary: Path) -> dict[str, Tensor]:
    """The values are checked in a buffer and not in the map, so that pages of it that nobody uses take no memory.

    `temporary`: the folder for a copy of the tensors that are not aligned for their type. The copy loses its name as
    soon as it is mapped.
    """
    buffer = torch.empty(_CHUNK, dtype=torch.uint8)
    for dtype, run in itertools.groupby(entries, key=lambda entry: entry.dtype):
        if dtype.is_floating_point:  # neighbours of one type are checked together
            _check_run(file, list(run), begin, buffer, path.name)
    offsets = {entry.name: begin + entry.start for entry in entries}
    unaligned = [entry for entry in entries if offsets[entry.name] % entry.dtype.itemsize]
    aligned = [entry for entry in entries if not offsets[entry.name] % entry.dtype.itemsize]
    tensors = _mapped(path, aligned, offsets)
    if unaligned:
        with tempfile.NamedTemporaryFile(dir=temporary) as out:
            offsets = _moved(file, unaligned, begin, cast("BinaryIO", out), buffer, path.name)
            tensors |= _mapped(Path(out.name), unaligned, offsets)
    return {entry.name: tensors[entry.name] for entry in entries}


def _moved(
    file: BinaryIO, entries: list[Entry], begin: int, out: BinaryIO, buffer: Tensor, name: str
) -> dict[str, int]:
    """Copies tensors to another file, each aligned for any type. Returns their offsets in bytes."""
    offsets = {}
    for entry in entries:
        offsets[entry.name] = out.seek(-(-out.tell() // _WIDEST) * _WIDEST)
        file.seek(begin + entry.start)
        for at in range(entry.start, entry.end, _CHUNK):
            chunk = buffer[: min(_CHUNK, entry.end - at)]
            _fill(file, chunk, name)
            data: Any = chunk.numpy()
            out.write(data)
    out.flush()
    return offsets


def _mapped(path: Path, entries: list[Entry], offsets: Mapping[str, int]) -> dict[str, Tensor]:
    """Views of tensors in a file. `offsets`: where each begins, in bytes."""
    size = max((offsets[entry.name] + entry.end - entry.start for entry in entries), default=0)
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    typed: dict[torch.dtype, Tensor] = {}  # all data as if it were of one type
    tensors = {}
    for entry in entries:
        width = entry.dtype.itemsize
        if entry.dtype not in typed:
            typed[entry.dtype] = whole[: len(whole) // width * width].view(entry.dtype)
        at = offsets[entry.name] // width
        tensors[entry.name] = typed[entry.dtype].as_strided(entry.shape, _strides(entry.shape), at)
    return tensors


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a tensor whose values follow each other."""
    strides = [1]
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * max(length, 1))
    return tuple(reversed(strides[: len(shape)]))


def _check_run(file: BinaryIO, run: list[Entry], begin: int, buffer: Tensor, name: str, *, whole: bool = False) -> None:
    """Reads and checks adjacent tensors of one type. `whole`: whether the buffer takes all, not a chunk at a time."""
    first = run[0].start
    file.seek(begin + first)
    entries = iter(run)
    entry = next(entries)
    for at in range(first, run[-1].end, _CHUNK):
        to = at - first if whole else 0
        chunk = buffer[to : to + min(_CHUNK, run[-1].end - at)]
        _fill(file, chunk, name)
        if _is_finite(chunk.view(entry.dtype)):
            continue
        while entry.end <= at:
            entry = next(entries)
        while True:  # it is one of those that lie here
            _check_finite(chunk[max(entry.start - at, 0) : entry.end - at], entry, name)
            entry = next(entries)


def _fill(file: BinaryIO, chunk: Tensor, name: str) -> None:
    target: Any = chunk.numpy()
    if file.readinto(target) != len(chunk):  # type: ignore[attr-defined]
        raise _damaged(name, "it ends too early")


def _check_finite(chunk: Tensor, entry: Entry, name: str) -> None:
    """Raises InvalidRequest where some of a tensor's bytes are NaN or infinite, in float32 as well."""
    if not entry.dtype.is_floating_point or not len(chunk):
        return
    values = chunk.view(entry.dtype)
    if _is_finite(values):
        return
    count = int((~torch.isfinite(values.float())).sum())  # a float64 may be too large for the backbone
    found = count if len(chunk) == entry.end - entry.start else f"at least {count}"
    raise InvalidRequest(f"'{entry.name}' in {name} has {found} values that are NaN or infinite", param=entry.name)


def _is_finite(values: Tensor) -> bool:
    low, high = torch.aminmax(values)  # NaN where there is one
    return math.isfinite(float(low.float())) and math.isfinite(float(high.float()))


def _damaged(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is damaged or not safetensors: {reason}", param=name)

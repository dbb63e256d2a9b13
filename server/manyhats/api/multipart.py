"""Reads an upload's multipart body: its files are written as they come, and nothing of it is read without a bound.

The parser calls back for every part of a body that it finds, so it is fed in a thread, never on the event loop.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from manyhats.errors import InvalidRequest, TooLarge
from manyhats.registry.blobs import check_first_bytes

# It warns of every body that it cannot read, which is the sender's to know: anybody could fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

_FILE_NAME = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._ ,+=-]{0,199}")
_TEXTS = ("task", "alias", "activate", "examples", "gate")
_FILES = ("files", "archive")
_BOUNDARY = 256  # characters
_MARGIN = 64 << 10  # bytes before the first part and behind the last one
_MARKS = 64  # boundaries, beside one for each file
_HEADERS = 16  # of a part
_HEADER_BYTES = 8 << 10  # of all headers of a part
_FIRST = 64  # bytes of a file that are looked at while it comes
_TEXT_BYTES = 1 << 20  # of a part that is no file


class UploadForm(NamedTuple):
    """What an upload sent. `files`: the names of the parts called so; `archive`: the archive's own name."""

    files: tuple[str, ...]
    archive: str | None
    texts: dict[str, bytes]  # the other parts, by name


class FormReader:
    """Takes an upload's body chunk by chunk. Not for several threads at once.

    Files are written to `folder`, an archive to the file `archive`. Raises InvalidRequest for what cannot be read or is
    not allowed, TooLarge over a limit.
    """

    def __init__(self, content_type: str, folder: Path, archive: Path, *, max_files: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise InvalidRequest("send the adapter as multipart/form-data, with parts named 'files' or one 'archive'")
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= _BOUNDARY:
            raise InvalidRequest(
                f"the multipart body needs a boundary of 1 to {_BOUNDARY} characters, not {len(boundary)}"
            )
        self._folder = folder
        self._archive = archive
        self._max_files = max_files
        self._mark = b"--" + boundary
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )
        self._started = self._ended = False
        self._marks = 0  # times that the boundary stood at the beginning of a line
        self._behind = 0  # bytes behind the last part
        self._headers = self._header_bytes = 0  # of the present part
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._out: BinaryIO | None = None
        self._first = b""  # the first bytes of the present file
        self._files: list[str] = []
        self._archive_name: str | None = None
        self._texts: dict[str, bytearray] = {}

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; the first chunk is to be larger than what may stand before a part, or the whole."""
        if not self._started:
            at = data.find(self._mark, 0, _MARGIN)
            if at < 0:
                raise InvalidRequest("the multipart body does not begin with its boundary")
            data, self._started = data[at:], True
        if self._ended:
            self._behind += len(data)
            if self._behind > _MARGIN:
                raise InvalidRequest("something stands behind the last part of the multipart body")
            return
        # The parser takes its time at each, and a part's content has none by RFC 2046, but by chance.
        self._marks += data.count(b"\r\n" + self._mark)
        if self._marks > self._max_files + _MARKS:
            raise TooLarge(
                f"the multipart body has more than {self._max_files} files, or its boundary stands within them",
                param="files",
            )
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the multipart body cannot be read: {error}") from None

    def finish(self) -> UploadForm:
        """What was sent. Raises InvalidRequest where the body ends before its last part does."""
        if not self._ended:
            raise InvalidRequest("the multipart body ends too early")
        if not self._files and self._archive_name is None:
            raise InvalidRequest("send either parts named 'files' or one 'archive'", param="files")
        return UploadForm(
            tuple(self._files), self._archive_name, {name: bytes(text) for name, text in self._texts.items()}
        )

    def close(self) -> None:
        """Closes a file that is not complete."""
        if self._out is not None:
            self._out.close()
            self._out = None

    # ---- called by the parser

    def _part_begin(self) -> None:
        self._headers = self._header_bytes = 0
        self._disposition = self._field = self._value = b""

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADER_BYTES:
            raise TooLarge(f"a part of the multipart body has headers of more than {_HEADER_BYTES} bytes", param="body")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers += 1
        if self._headers > _HEADERS:
            raise TooLarge(f"a part of the multipart body has more than {_HEADERS} headers", param="body")
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        if name not in _TEXTS + _FILES:
            raise InvalidRequest(
                f"there is no part '{name[:200]}'; there are {', '.join(sorted(_TEXTS + _FILES))}", param=name[:200]
            )
        self._name = name
        if name in _TEXTS:
            if name in self._texts:
                raise InvalidRequest(f"the part '{name}' is there twice", param=name)
            self._texts[name] = bytearray()
        elif filename is None:
            raise InvalidRequest(f"the part '{name}' must be a file, with a filename", param=name)
        elif (name == "archive" and self._files) or self._archive_name is not None:
            raise InvalidRequest("send either parts named 'files' or one 'archive'", param="files")
        elif name == "archive":
            self._archive_name = filename.decode(errors="replace")[:200] or "archive"
            self._out = self._archive.open("xb")
        else:
            self._open_file(filename.decode(errors="replace"))

    def _open_file(self, name: str) -> None:
        if not _FILE_NAME.fullmatch(name):
            raise InvalidRequest(
                f"the file name {name[:100]!r} is not allowed; send plain names, and folders as an archive",
                param="files",
            )
        if len(self._files) >= self._max_files:
            raise TooLarge(f"the upload has more than {self._max_files} files", param="files")
        try:
            self._out = (self._folder / name).open("xb")
        except FileExistsError:
            raise InvalidRequest(f"two files are called '{name}'", param="files") from None
        self._files.append(name)
        self._first = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._out is not None:
            if len(self._first) < _FIRST and self._files:
                self._first += data[start : min(end, start + _FIRST)]
                check_first_bytes(self._files[-1], self._first)
            self._out.write(memoryview(data)[start:end])
            return
        text = self._texts[self._name]
        if len(text) + end - start > _TEXT_BYTES:
            raise TooLarge(f"the part '{self._name}' is larger than {_TEXT_BYTES} bytes", param=self._name)
        text += data[start:end]

    def _part_end(self) -> None:
        self.close()

    def _end(self) -> None:
        self._ended = True

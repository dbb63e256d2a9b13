"""Brings an adapter's files from a source: what they are is known and checked before a byte of them is asked for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from manyhats.disk import is_full
from manyhats.errors import InvalidRequest, ManyhatsError, NotFound, SourceFailed, StorageFull, TooLarge
from manyhats.formats.contents import MARKS, Contents, check_size, matches, select
from manyhats.messages import short_name
from manyhats.registry.allowed_folders import find_adapter, read_adapter_folder
from manyhats.registry.blobs import check_first_bytes, digest, keep_adapter_files
from manyhats.registry.origin import Origin, OriginFile
from manyhats.registry.sources.base import Deadline, RemoteFile, Source

_DEPTH = 4  # folders
_RESERVE = 64 << 20  # bytes of the disk that a fetch leaves free


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Most files, and most bytes of all of them."""

    max_files: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was brought, and the warnings about what was left."""

    origin: Origin
    warnings: tuple[str, ...]


def fetch(source: Source, into: Path, limits: FetchLimits, deadline: Deadline) -> Fetched:
    """Writes the adapter's files of a source to the empty folder `into`; a part of them where it fails.

    Raises what the source raises; InvalidRequest, UnsupportedFormat or TooLarge for what its list shows; StorageFull
    where the disk has no space for them; SourceFailed where what comes is not what was listed.
    """
    listing = source.list(deadline)
    chosen, warnings = choose(listing.files, limits)
    _check_disk(into, sum(file.size for file in chosen.values()))
    for place, file in chosen.items():
        _write(source, file, into / place, deadline)
    files = tuple(OriginFile(place, file.size, file.etag) for place, file in chosen.items())
    return Fetched(replace(listing.origin, files=files), warnings)


def choose(files: Sequence[RemoteFile], limits: FetchLimits) -> tuple[dict[str, RemoteFile], tuple[str, ...]]:
    """The files of an adapter among those listed, each by the place that it gets; and the warnings about the others.

    Raises InvalidRequest, UnsupportedFormat or TooLarge where they are no adapter within the limits, SourceFailed for a
    name that stands twice.
    """
    listed = {file.name: file for file in files}
    if len(listed) < len(files):
        raise SourceFailed("the source lists a name twice", param="source")
    places, warnings = _choose({name: file.size for name, file in listed.items()}, limits)
    return {place: listed[name] for name, place in places.items()}, warnings


def copy_folder(path: str, allowed: Sequence[Path], forbidden: Path, into: Path, limits: FetchLimits) -> Fetched:
    """Copies an adapter's files from a folder of this machine, with the checks of `/v1/load_lora_adapter`.

    Raises what `find_adapter` and `read_adapter_folder` raise, and NotFound where it cannot be read.
    """
    try:
        folder = find_adapter(path, allowed)
        found = read_adapter_folder(folder, allowed, forbidden, max_files=limits.max_files, max_bytes=limits.max_bytes)
        _check_disk(into, found.size())
        left_out = found.copy_to(into)
    except ManyhatsError as error:
        if error.param == "path":
            error.param = "source.folder"
        raise
    except OSError as error:
        if is_full(error):
            raise
        raise NotFound(f"the folder '{path[:200]}' cannot be read: {error.strerror}", param="source.folder") from None
    files = sorted(file for file in into.rglob("*") if file.is_file())
    taken = tuple(OriginFile(file.relative_to(into).as_posix(), file.stat().st_size) for file in files)
    return Fetched(Origin("folder", str(folder), files=taken), tuple(left_out))


def check_digest(files: Path, expected: str) -> None:
    """Removes what is no adapter's file, and compares the rest's sha256 with the one that the caller expects.

    Raises InvalidRequest where they differ.
    """
    keep_adapter_files(files)
    found = digest(files)
    if found != expected.lower():
        raise InvalidRequest(f"the source's files have the sha256 {found}, not {expected[:100]}", param="sha256")


def _choose(sizes: Mapping[str, int], limits: FetchLimits) -> tuple[dict[str, str], tuple[str, ...]]:
    """Where each file that is fetched goes, by its name; and the warnings about the others."""
    contents = select(sizes)
    contents.check()
    places: dict[str, str] = {}
    warnings = list(contents.warnings())
    for name in contents.kept:
        place = contents.place(name)
        _check_name(name)
        if (warning := check_size(place, sizes[name])) is not None:
            warnings.append(warning)
        else:
            places[name] = place
    if not any(_is_mark(place) for place in places.values()):
        raise InvalidRequest(_no_adapter(contents), param="source")
    if len(places) > limits.max_files:
        raise TooLarge(f"the source holds {len(places)} files; at most {limits.max_files} are taken", param="source")
    total = sum(sizes[name] for name in places)
    if total > limits.max_bytes:
        raise TooLarge(f"the source's files have {total} bytes; at most {limits.max_bytes} are taken", param="source")
    return places, tuple(warnings)


def _is_mark(place: str) -> bool:
    path = PurePosixPath(place)
    return any(matches(PurePosixPath(*path.parts[start:]), MARKS) for start in range(len(path.parts)))


def _no_adapter(contents: Contents) -> str:
    found = f"; it has {', '.join(map(short_name, contents.kept[:5]))}" if contents.kept else ""
    return f"the source holds no adapter's configuration, such as {MARKS[0]}{found}"


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or path.as_posix() != name
        or len(path.parts) > _DEPTH
        or not name.isprintable()
        or any(bad in name for bad in ("\\", ":"))
        or any(len(part.encode(errors="replace")) > 255 for part in path.parts)
    ):
        raise InvalidRequest(f"the source holds the name {name[:200]!r}, which is not allowed", param="source")


def _check_disk(into: Path, needed: int) -> None:
    free = shutil.disk_usage(into).free
    if needed + _RESERVE > free:
        raise StorageFull(f"the source's files have {needed} bytes, and the store's disk has only {free} left")


def _write(source: Source, file: RemoteFile, target: Path, deadline: Deadline) -> None:
    """One file, compared with its list's entry while it comes: never more is written than was listed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    written = 0
    named = short_name(file.name)
    with target.open("xb") as out, source.open(file, deadline) as chunks:
        for chunk in _from_start(target.name, chunks):
            written += len(chunk)
            if written > file.size:
                raise SourceFailed(f"'{named}' has more bytes than the {file.size} that were listed", param="source")
            sha256.update(chunk)
            git.update(chunk)
            out.write(chunk)
    if written < file.size:
        raise SourceFailed(f"'{named}' has {written} bytes, not the {file.size} that were listed", param="source")
    for expected, found in ((file.sha256, sha256), (file.git_sha1, git)):
        if expected is not None and found.hexdigest() != expected:
            raise SourceFailed(f"'{named}' is not what was listed: its content has another digest", param="source")


def _from_start(name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, of which the first is looked at before the others are asked for."""
    first = True
    for chunk in chunks:
        if first and chunk:
            check_first_bytes(name, chunk)
            first = False
        yield chunk

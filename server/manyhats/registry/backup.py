"""A copy of a whole store, metadata and files, in one tar: made while a server runs, put back into an empty store.

    manyhats.json               what it is: its format, the schema, who made it, when
    blobs/<sha256>/<file>       the files of every version
    tables/<table>.jsonl        the rows of each table, one JSON object a line, all of one moment
    digests.json                the sha256 of each table's rows; it is the last member, so a cut off copy has none

The files never change, so they are copied first. Then the rows of one moment are read, and what they need beside is
copied; where a content was deleted meanwhile, again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from manyhats._version import __version__
from manyhats.errors import Conflict, DamagedStore, UnsupportedFormat
from manyhats.registry.blobs import Blobs
from manyhats.registry.blobs.base import DamagedBlob
from manyhats.registry.blobs.local import fault_of
from manyhats.registry.database import SCHEMA, Base, ChangeRow, SchemaRow

FORMAT = 1
_TRIES = 10  # readings of the rows, where contents are deleted meanwhile
_IN_MEMORY = 8 << 20  # bytes of a table's rows, beyond which they wait in a file
HEAD, DIGESTS = "manyhats.json", "digests.json"


@dataclass(slots=True)
class Counts:
    """What was copied, and the contents whose files were damaged, with the reasons."""

    tasks: int = 0
    versions: int = 0
    contents: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def tables() -> list[Table]:
    """Those with what is to be kept, in an order in which their rows can be put back."""
    left = {SchemaRow.__tablename__, ChangeRow.__tablename__}
    return [table for table in Base.metadata.sorted_tables if table.name not in left]


def write_backup(
    path: Path, reading: Callable[[], AbstractContextManager[Session]], blobs: Blobs, *, skip_damaged: bool = False
) -> Counts:
    """Writes the copy to a file, which is there whole or not at all. `reading`: a session that sees one moment.

    Raises DamagedStore where files are not what was stored, which `skip_damaged` leaves out; Conflict where the file is
    there, or the store changes all the time.
    """
    if path.exists():
        raise Conflict(f"'{path}' is there already; give another name, or remove it", param="FILE")
    counts = Counts()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                head = {"format": FORMAT, "schema": SCHEMA, "version": __version__, "created": time.time()}
                _add(tar, HEAD, json.dumps(head).encode())
                _copy(tar, reading, blobs, counts)
                if counts.damaged and not skip_damaged:
                    sha, reason = next(iter(counts.damaged.items()))
                    raise DamagedStore(
                        f"the files of {len(counts.damaged)} contents have changed, such as {sha}: {reason}; "
                        "bring them back first, or leave them out with --skip-damaged"
                    )
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return counts


def _copy(
    tar: tarfile.TarFile, reading: Callable[[], AbstractContextManager[Session]], blobs: Blobs, counts: Counts
) -> None:
    copied: set[str] = set()
    for _ in range(_TRIES):
        with ExitStack() as stack:
            rows: dict[str, IO[bytes]] = {}
            needed: set[str] = set()
            with reading() as session:
                for table in tables():
                    rows[table.name] = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))
                    count = _dump(session, table, rows[table.name], needed)
                    counts.tasks = count if table.name == "tasks" else counts.tasks
                    counts.versions = count if table.name == "versions" else counts.versions
            counts.damaged = {}
            for sha in sorted(needed - copied):
                if (reason := _copy_content(tar, blobs, sha)) is None:
                    copied.add(sha)
                else:
                    counts.damaged[sha] = reason
            if counts.damaged:
                with reading() as session:
                    if _contents(session) != needed:  # perhaps they were deleted since the rows were read
                        continue
            counts.contents = len(copied)
            digests = {}
            for name, file in rows.items():
                member = f"tables/{name}.jsonl"
                digests[member] = _add_file(tar, member, file)
            _add(tar, DIGESTS, json.dumps(digests).encode())
            return
    raise Conflict(f"versions were deleted during each of {_TRIES} attempts at a copy; try again when less changes")


def _copy_content(tar: tarfile.TarFile, blobs: Blobs, sha: str) -> str | None:
    """Adds the files of a content. Why they are not what was stored, where nothing was added."""
    try:
        with blobs.reading(sha) as folder:
            if not folder.is_dir():
                return "their folder is gone"
            if (reason := fault_of(folder, sha)) is not None:
                return reason
            _add_content(tar, folder, sha)
    except DamagedBlob as error:
        return str(error)
    except FileNotFoundError:
        return "they were removed as they were read"
    return None


def _contents(session: Session) -> set[str]:
    found: set[str] = set()
    for row in session.execute(select(Base.metadata.tables["versions"])).mappings():
        found |= contents_of(row)
    return found


def contents_of(row: Any) -> set[str]:
    """The contents that a version's row needs."""
    return {row["sha256"], *(row["info"].get("references") or ())}


def _dump(session: Session, table: Table, file: IO[bytes], needed: set[str]) -> int:
    """Writes a table's rows. How many there are."""
    count = 0
    ordered = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=500)
    for row in session.execute(ordered).mappings():
        file.write(json.dumps(dict(row), separators=(",", ":")).encode() + b"\n")
        count += 1
        if table.name == "versions":
            needed |= contents_of(row)
    return count


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    _add_file(tar, name, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> str:
    """Adds what a file has. Its sha256."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = file.seek(0, os.SEEK_END), int(time.time()), 0o644
    file.seek(0)
    tar.addfile(member, file)
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _add_content(tar: tarfile.TarFile, folder: Path, sha: str) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ExitStack() as stack:  # all are open before the first is written
        opened = [(path, stack.enter_context(path.open("rb"))) for path in files]
        for path, file in opened:
            _add_file(tar, f"blobs/{sha}/{path.relative_to(folder).as_posix()}", file)


def members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of a copy, by name. Raises UnsupportedFormat for anything else in it."""
    for member in tar:
        file = tar.extractfile(member) if member.isreg() else None
        if file is None or member.name.startswith("/") or ".." in Path(member.name).parts:
            raise UnsupportedFormat(f"'{member.name[:200]}' in the copy is not a file of a backup", param="FILE")
        yield member.name, file

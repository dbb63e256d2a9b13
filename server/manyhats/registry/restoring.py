"""Puts a backup into an empty store: every file is compared with its sha256, and the rows come in one transaction."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from manyhats.errors import Conflict, DamagedStore, UnsupportedFormat
from manyhats.registry.backup import DIGESTS, FORMAT, HEAD, Counts, contents_of, members, tables
from manyhats.registry.blobs import Blobs, digest
from manyhats.registry.database import SCHEMA, ChangeRow, FolderImportRow
from manyhats.registry.stores.base import MetadataStore

_BLOB = re.compile(r"blobs/([0-9a-f]{64})/(.+)")
_AT_ONCE = 500  # rows in one statement
_MAX_HEAD = 1 << 20  # bytes
_IN_MEMORY = 8 << 20  # bytes of a table's rows, beyond which they wait in a file


class Restoring:
    """One backup on its way into a store that nobody else has open. `database` and `blobs` are open."""

    def __init__(self, database: MetadataStore, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._kept: set[str] = set()
        self._damaged: dict[str, str] = {}

    def restore(self, path: Path) -> Counts:
        """Puts all of it in place, or no rows.

        Raises Conflict where the store has tasks or other rows already, UnsupportedFormat for a file that is no whole
        backup or one of a newer Manyhats, DamagedStore for one whose content has changed.
        """
        with self._database.write() as session:  # other servers on the database wait
            for table in tables():
                if session.scalar(select(func.count()).select_from(table)):
                    raise Conflict(
                        f"the store is not empty: its table '{table.name}' has rows; restore into a new store and, "
                        "with --database-url, into a new database"
                    )
            if self._database.shared:
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            with ExitStack() as stack:
                try:
                    tar = stack.enter_context(tarfile.open(path, mode="r:"))
                    rows = self._take_files(tar, stack)
                except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
                    raise UnsupportedFormat(f"'{path}' is not a whole backup: {error}", param="FILE") from None
                counts = self._insert(session, rows)
            if self._database.shared:
                _have_all_compared(session)
            session.commit()
        return counts

    def _take_files(self, tar: tarfile.TarFile, stack: ExitStack) -> dict[str, IO[bytes]]:
        """Keeps the contents; the rows of the tables, by name, whose digests are right."""
        rows: dict[str, IO[bytes]] = {}
        found: dict[str, str] = {}
        digests: dict[str, str] | None = None
        content = ""
        staged: Path | None = None
        staging = ExitStack()
        with staging:
            for number, (name, file) in enumerate(members(tar)):
                if number == 0:
                    _check_head(name, file)
                    continue
                match = _BLOB.fullmatch(name)
                if (match[1] if match else "") != content:
                    self._keep(staged, content)
                    staging.close()
                    content = match[1] if match else ""
                    staged = staging.enter_context(self._blobs.stage()) if content else None
                if match and staged is not None:
                    target = staged / match[2]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as out:
                        shutil.copyfileobj(file, out)
                elif name == DIGESTS:
                    digests = json.loads(file.read(_MAX_HEAD))
                else:
                    copy = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
                    shutil.copyfileobj(file, copy)
                    copy.seek(0)
                    found[name] = hashlib.file_digest(copy, "sha256").hexdigest()
                    rows[name] = copy
        if digests is None:
            raise UnsupportedFormat("the backup is cut off: its end is missing", param="FILE")
        if digests != found:
            wrong = sorted({name for name in digests.keys() | found.keys() if digests.get(name) != found.get(name)})
            raise DamagedStore(f"the backup has changed since it was made: {wrong[0]} is not what was written")
        return rows

    def _keep(self, staged: Path | None, sha: str) -> None:
        if staged is None or sha in self._kept:
            return
        if digest(staged) != sha:
            raise DamagedStore(f"the backup has changed since it was made: the files of {sha} have another sha256")
        self._blobs.put(staged, sha)
        self._blobs.keep(staged, sha)
        self._kept.add(sha)

    def _insert(self, session: Session, rows: dict[str, IO[bytes]]) -> Counts:
        counts = Counts(contents=len(self._kept))
        needed: set[str] = set()
        for table in tables():
            file = rows.get(f"tables/{table.name}.jsonl")
            if file is None:
                continue
            file.seek(0)
            some: dict[Any, dict[str, Any]] = {}  # by primary key: folders of several servers may become those of one
            for number, line in enumerate(file):
                row = json.loads(line)
                if table.name == FolderImportRow.__tablename__:
                    row["server"] = (row["server"] or self._database.server) if self._database.shared else ""
                if table.name == "versions":
                    counts.versions += 1
                    needed |= contents_of(row)
                counts.tasks += table.name == "tasks"
                some[tuple(row[column.name] for column in table.primary_key.columns)] = row
                if number % _AT_ONCE == _AT_ONCE - 1 and table.name != FolderImportRow.__tablename__:
                    session.execute(insert(table), list(some.values()))
                    some = {}
            if some:
                session.execute(insert(table), list(some.values()))
            if self._database.shared and "id" in table.columns:  # the next row's number comes after these
                session.execute(
                    select(func.setval(func.pg_get_serial_sequence(table.name, "id"), func.max(table.c.id)))
                )
        counts.damaged = dict.fromkeys(needed - self._kept, "the backup does not have them")
        return counts


def _check_head(name: str, file: IO[bytes]) -> None:
    if name != HEAD:
        raise UnsupportedFormat("the file is not one that `manyhats backup` wrote", param="FILE")
    head = json.loads(file.read(_MAX_HEAD))
    if head["format"] > FORMAT or head["schema"] > SCHEMA:
        whose = f"{head['version']}, schema {head['schema']}; this has {SCHEMA}"
        raise UnsupportedFormat(f"the backup was written by a newer Manyhats ({whose})", param="FILE")


def _have_all_compared(session: Session) -> None:
    """Servers that run on the database compare all tasks: what they have not seen has a gap before it."""
    for _ in range(2):
        row = ChangeRow(task="")
        session.add(row)
        session.flush()
    session.execute(delete(ChangeRow).where(ChangeRow.id < row.id))

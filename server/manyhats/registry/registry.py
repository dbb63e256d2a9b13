"""The registry: which tasks there are, which version each name means, and how that changes.

Reads come from memory and never wait for the disk. A write is one transaction; memory changes only after it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import delete, select
from sqlalchemy.exc import DatabaseError, OperationalError

from manyhats.disk import is_full
from manyhats.errors import (
    ConfigurationError,
    Conflict,
    InvalidRequest,
    ManyhatsError,
    TooLarge,
)
from manyhats.methods.heads import KindName
from manyhats.registry.alias_changes import Listener
from manyhats.registry.aliases import point, remove_from_history
from manyhats.registry.audit import AuditLog, action_of
from manyhats.registry.blobs import Blobs, digest, keep_adapter_files
from manyhats.registry.blobs.local import LocalBlobs
from manyhats.registry.blobs.owner import lock, owner_id
from manyhats.registry.database import EvaluationRow, FolderImportRow, TaskRow, VersionRow
from manyhats.registry.followed_changes import FollowedChanges
from manyhats.registry.names import STABLE, check_alias, check_name
from manyhats.registry.origin import Origin
from manyhats.registry.quarantine import Quarantine
from manyhats.registry.records import (
    AdapterInfo,
    Target,
    Task,
    TaskSettings,
    Version,
    check_labels,
    parse_settings,
)
from manyhats.registry.rows import read_tasks
from manyhats.registry.store_state import LOCK, OWN_FOLDER
from manyhats.registry.stores.base import MetadataStore, StoreState
from manyhats.registry.stores.sqlite import SqliteStore
from manyhats.registry.uses import contents_of
from manyhats.registry.visibility import check_may_write

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Registry(FollowedChanges):
    """`inspect` reads and checks an adapter folder, and raises where it is not supported.

    It is given the kind that the upload says, or else the one that is set for the task. `database` and `blobs`: where
    the metadata and the files are; none: SQLite and folders, in the store.
    """

    def __init__(
        self,
        store: Path,
        inspect: Callable[[Path, KindName | None], AdapterInfo],
        *,
        database: MetadataStore | None = None,
        blobs: Blobs | None = None,
        max_tasks: int = 100_000,
        max_versions: int = 1000,
        audit_entries: int = 100_000,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(rng or random.Random())
        self.store = store
        self.own_folder = store / OWN_FOLDER
        self._inspect = inspect
        self.max_tasks = max_tasks
        self.max_versions = max_versions
        self._blobs: Blobs = blobs or LocalBlobs(self.own_folder)
        self._blobs.in_use = self.in_use
        self._database: MetadataStore = database or SqliteStore(self.own_folder)
        self.audit = AuditLog(self._database, audit_entries)
        self.quarantine = Quarantine(self._blobs, self)
        # Taken in one thread, given back in another.
        self._file_lock = FileLock(self.own_folder / LOCK, thread_local=False)
        self._listeners: list[Listener] = []
        self._events = deque()
        self._telling = threading.Lock()

    # ---- life

    def open(self) -> None:
        """Takes the store for this process, and cleans up after a killed one.

        Raises ConfigurationError where another process has it, it cannot be written or its database is damaged.
        """
        try:
            self.own_folder.mkdir(parents=True, exist_ok=True)
            self._file_lock.acquire(timeout=0)
        except Timeout:
            raise ConfigurationError(f"another server uses the store '{self.store}'") from None
        except OSError as error:
            raise ConfigurationError(f"the store '{self.store}' cannot be used: {error}") from None
        with ExitStack() as undo:
            undo.callback(self._file_lock.release)
            try:
                self._blobs.open()
                # Beside adapters, a new database would have them all cleaned up.
                self._database.open(make=self._blobs.empty())
                undo.callback(self._database.close)
                if self._blobs.shared:
                    with self._database.write() as session:
                        owner = owner_id(session)
                    self._blobs.claim(owner)
                with self._database.opening() as session:  # no other server keeps what a version is to name
                    self._load(read_tasks(session))
                    self._blobs.clean(self.contents())
                self.quarantine.check_present(self.contents())
                self._database.follow(self._bring_in, self._tell_changes)
            except ConfigurationError:
                raise
            except OSError as error:
                raise ConfigurationError(f"the store '{self.store}' cannot be used: {error}") from None
            except DatabaseError as error:
                raise ConfigurationError(f"the store's database cannot be read: {error.orig}") from None
            except (ManyhatsError, TypeError, ValueError, KeyError) as error:  # rows that this never wrote
                raise ConfigurationError(f"the store's database holds what cannot be read: {error}") from None
            undo.pop_all()

    def close(self) -> None:
        """Gives the store back."""
        self._database.close()
        self.quarantine.close()
        self._blobs.close()
        self._file_lock.release()

    @property
    def database_state(self) -> StoreState:
        """How the database is seen from here."""
        return self._database.state

    # ---- files

    @property
    def blobs(self) -> Blobs:
        """Where the files are."""
        return self._blobs

    def files(self, version: Version) -> Path:
        """The folder of a version's files, checked by their digest: all are read.

        Raises DamagedStore where they are not what was stored.
        """
        return self.quarantine.check(version.sha256)

    def read(self, version: Version, read: Callable[[Path], T]) -> T:
        """What `read` makes of the folder of a version's files, whose digest is checked meanwhile.

        Raises DamagedStore where they are not what was stored, and what `read` raises where they are.
        """
        return self.quarantine.read(version.sha256, read)

    def fetch(
        self, versions: Iterable[Version], then: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Calls `then` when the files of the versions are on this machine; see `Blobs.fetch`."""
        self._blobs.fetch({sha for version in versions for sha in contents_of(version)}, then, failed)

    def content(self, sha256: str) -> Path:
        """The files of a stored content, checked as by `files`. Raises InvalidRequest where no version has it."""
        self._require(sha256)
        return self.quarantine.check(sha256)

    def unpin(self, version: Version) -> None:
        """Gives back what `pin` gave."""
        for sha in self.drop_pin(version):
            self._remove_blob(sha)

    # ---- writing

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder for an adapter's files. Raises StorageFull where the disk is full."""
        with self._blobs.stage() as folder:
            yield folder

    def add_version(
        self,
        task: str,
        staged: Path,
        *,
        alias: str = STABLE,
        activate: bool = True,
        settings: TaskSettings | None = None,
        warnings: Iterable[str] = (),
        check: Callable[[AdapterInfo], None] = lambda info: None,
        origin: Origin | None = None,
    ) -> tuple[Version, bool]:
        """Makes a version of the staged files, and points `alias` at it. What a trainer left beside them is removed.

        Returns it, and whether it is new: the same content again gives the version that already holds it. Its warnings
        are this upload's: those given, about what was left out before, and those about its files; so is its `origin`.
        `check` is given what the files are. Raises what it, `keep_adapter_files` and `inspect` raise, and TooLarge over
        the limits of tasks or versions.
        """
        check_name(task, write=True)
        check_may_write(task)
        check_alias(alias)
        left_out = keep_adapter_files(staged)
        before = self.find(task)
        kind = settings.kind if settings is not None else None
        info = self._inspect(staged, kind or (before.settings.kind if before else None))
        info = replace(info, warnings=(*warnings, *left_out, *info.warnings), origin=origin)
        parse_settings(info.settings)
        check(info)
        if settings is not None:
            check_labels(settings, info)
        sha = digest(staged)
        damaged = self.quarantine.is_damaged(sha)
        self._check_room(task, sha)  # before an object store gets it
        self._blobs.put(staged, sha)
        with self._database.write(task) as session:
            for member in info.references:  # deleted since it was inspected
                self._require(member)
            self.check_reading(sha, info)
            found, known = self._check_room(task, sha)
            row = session.get(TaskRow, task)
            if row is None:
                row = TaskRow(name=task, created=time.time(), settings={}, next_version=1)
                session.add(row)
                session.flush()
            if settings is not None:
                values = row.settings | settings.model_dump(exclude_unset=True)
                row.settings = {name: value for name, value in values.items() if value is not None}
            version = known or Version(task, row.next_version, sha, info, time.time())
            if known is None:
                row.next_version += 1
                session.add(
                    VersionRow(task=task, number=version.number, sha256=sha, created=version.created, info=asdict(info))
                )
            base = found or Task(task, row.created, TaskSettings())
            after = replace(
                base,
                settings=parse_settings(row.settings),
                versions=base.versions if known else (*base.versions, version),
            )
            if activate:
                after = point(session, after, alias, (Target(version.number),))
            self.audit.record_upload(session, base, after, version, alias if activate else "", settings)
            # The blob first: a version without its files must never be, files without a version are cleaned up.
            if self._blobs.shared:
                lock(session)  # not while the same content is being collected
            self._blobs.keep(staged, sha, replace=damaged)
            try:
                session.commit()
            except OperationalError as error:
                if is_full(error):  # surely not committed; the disk space is needed at once
                    self._remove_blob(sha)
                raise
            self._put(after)
            self.quarantine.lift(sha)
        if activate:
            self._notify("activated", version, task)
        return replace(version, info=replace(version.info, warnings=info.warnings, origin=origin)), known is None

    def put_settings(self, task: str, partial: Mapping[str, Any]) -> Task:
        """Sets the given fields; None goes back to what the files bring. Raises InvalidRequest naming the field."""
        check_name(task, write=True)
        with self._database.write(task) as session:
            found = self.task(task)
            row = session.get_one(TaskRow, task)
            if unknown := sorted(set(partial) - set(TaskSettings.model_fields)):
                raise InvalidRequest(f"there is no setting '{unknown[0][:200]}'", param=unknown[0][:200])
            values = row.settings | dict(partial)
            values = {name: value for name, value in values.items() if value is not None}
            settings = parse_settings(values)
            row.settings = values
            self.audit.record(session, action_of(partial), task, detail=sorted(partial))
            session.commit()
            return self._put(replace(found, settings=settings))

    def delete_task(self, task: str) -> None:
        """Takes a task away. Requests in flight keep their files until they are done."""
        check_name(task, write=True)
        for version in self._database.delete(lambda: self._delete_task(task)):
            self._notify("deleted", version, task)

    def _delete_task(self, task: str) -> tuple[Version, ...]:
        with self._database.write(task) as session:
            found = self.task(task)
            session.execute(delete(TaskRow).where(TaskRow.name == task))
            self.audit.record(session, "delete_task", task, alias=STABLE, before=found)
            session.commit()
            self._remove(task)
            self._remove_unneeded(found.versions)
        return found.versions

    def delete_version(self, task: str, number: int) -> Task:
        """Removes a version. Raises Conflict naming the aliases that point at it."""
        check_name(task, write=True)
        after, version = self._database.delete(lambda: self._delete_version(task, number))
        self._notify("deleted", version, task)
        return after

    def _delete_version(self, task: str, number: int) -> tuple[Task, Version]:
        with self._database.write(task) as session:
            found = self.task(task)
            version = found.version(number)
            if holding := found.holding(number):
                raise Conflict(
                    f"version {number} of `{task}` cannot be deleted: {', '.join(holding)} points at it",
                    param="version",
                )
            session.execute(delete(VersionRow).where(VersionRow.task == task, VersionRow.number == number))
            session.execute(delete(EvaluationRow).where(EvaluationRow.task == task, EvaluationRow.number == number))
            remove_from_history(session, found, number)
            self.audit.record(session, "delete_version", task, version=number)
            session.commit()
            after = self._put(replace(found, versions=tuple(v for v in found.versions if v is not version)))
            self._remove_unneeded([version])
        return after, version

    # ---- folders copied by hand (see imports)

    def imports(self) -> dict[str, tuple[str, str]]:
        """The fingerprint of each folder that was dealt with, and what became of it."""
        with self._database.read() as session:
            columns = (FolderImportRow.folder, FolderImportRow.fingerprint, FolderImportRow.outcome)
            own = select(*columns).where(FolderImportRow.server == self._database.server)
            return {name: (fingerprint, outcome) for name, fingerprint, outcome in session.execute(own)}

    def holds_elsewhere(self, task: str, folder: Path) -> bool:
        """Whether other servers share the database, and a version of the task has the content of the folder."""
        found = self.find(task) if self._database.shared else None
        return found is not None and digest(folder) in {version.sha256 for version in found.versions}

    def record_import(self, folder: str, fingerprint: str, outcome: str) -> None:
        """Records what became of a folder."""
        with self._database.write() as session:
            session.merge(
                FolderImportRow(server=self._database.server, folder=folder, fingerprint=fingerprint, outcome=outcome)
            )
            session.commit()

    # ---- parts of writing

    def _check_room(self, task: str, sha: str) -> tuple[Task | None, Version | None]:
        """The task, and its version with this content, where there are some. Raises TooLarge where there is no room."""
        found = self.find(task)
        known = next((v for v in found.versions if v.sha256 == sha), None) if found else None
        if found is None and self.count >= self.max_tasks:
            raise TooLarge(f"the store holds {self.count} tasks, which is the most", param="task")
        if found is not None and known is None and len(found.versions) >= self.max_versions:
            raise TooLarge(
                f"the task `{task}` has {len(found.versions)} versions, which is the most; delete some", param="task"
            )
        return found, known

    def _remove_unneeded(self, versions: Iterable[Version]) -> None:
        """Removes the blobs of deleted versions that nobody else needs."""
        for sha in self._decref(versions):
            self._remove_blob(sha)

    def _forget(self, sha256: str) -> None:
        self.quarantine.lift(sha256)

    def _remove_blob(self, sha: str) -> None:
        with self._database.lock:  # not while an upload of the same content is being kept
            if not self.is_needed(sha):
                self._blobs.remove(sha)
                self.quarantine.lift(sha)

    def _require(self, sha: str) -> None:
        if not self.is_needed(sha) or not self.may_use(sha):
            raise InvalidRequest(
                f"no stored version has the sha256 '{sha[:80]}'; upload the member first", param="members"
            )

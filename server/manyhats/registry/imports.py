"""Adapter folders that somebody copied or linked into the store: each is imported once, as a version of its task.

The folder's name is the task's. It is copied, never moved or changed. What became of it is recorded with a
fingerprint of its files, so that a restart, a rollback or a deletion of the task is not undone by it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manyhats.core.call import CURRENT_CALL
from manyhats.errors import DamagedStore, ManyhatsError, NotReady, StorageFull
from manyhats.formats.contents import MARKS
from manyhats.registry.audit import SCANNER
from manyhats.registry.folders import FolderFiles, adapter_folder, read_folder
from manyhats.registry.names import BASE, is_name
from manyhats.registry.registry import Registry

logger = logging.getLogger(__name__)

SETTLED = 2.0  # seconds without a change after which a folder counts as copied
_STORE_ITSELF = "."  # what the store itself is called among the folders
_REFUSED = "refused: "

Status = Literal["taken_in", "waiting", "refused"]


@dataclass(frozen=True, slots=True)
class FolderImport:
    """What became of a folder. `reason`: why it waits or was refused, or what the reader warns of."""

    folder: str
    status: Status
    version: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`text`: `taken in as version 3`, `already there as version 3`, or `refused: ` and why."""

    text: str
    notes: tuple[str, ...] = ()

    def recorded(self) -> str:
        return "; ".join([self.text, *self.notes])


class FolderImports:
    """Watches the store for folders.

    `settled`: seconds without a change after which a folder counts as copied; below 0, it does at once. They are
    measured with a monotonic clock: the wall clock may be set back.
    """

    def __init__(self, registry: Registry, *, settled: float = SETTLED) -> None:
        self._registry = registry
        self._settled = settled
        # Of folders that are changing: the fingerprint, the newest change, and since when both are so.
        self._changing: dict[str, tuple[str, float, float]] = {}
        # Of folders without an adapter: when they were changed, and where an adapter lies deeper.
        self._deeper_adapters: dict[str, tuple[int, str]] = {}
        self._lock = threading.Lock()
        self._listed: dict[str, FolderImport] = {}

    def listed(self) -> list[FolderImport]:
        """All folders in the store at the last scan, by name."""
        with self._lock:
            return [self._listed[name] for name in sorted(self._listed)]

    def scan(self) -> tuple[dict[str, str], bool]:
        """Imports folders that are new or have changed, and have settled.

        Returns what was done, by folder, and whether a folder is still being copied, so that another scan is due.
        """
        done: dict[str, str] = {}
        found: dict[str, FolderImport] = {}
        copying = False
        names = self._names()
        try:
            known = self._registry.imports() if names != [_STORE_ITSELF] else {}
        except NotReady:  # the database is away, and has said so; nothing can be imported
            return {}, False
        for name in names:
            result, outcome, moving = self._scan_folder(name, known.get(name))
            copying = copying or moving
            if outcome is not None:
                done[name] = outcome
            if result is not None:
                found[name] = result
        for name in self._changing.keys() - found.keys():
            del self._changing[name]
        self._log(found, done)
        with self._lock:
            self._listed = found
        return done, copying

    def _names(self) -> list[str]:
        """Folders in the store, links to some, and links that lead nowhere; and the store itself."""
        with os.scandir(self._registry.store) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (os.path.isdir(entry.path) or (entry.is_symlink() and not os.path.exists(entry.path)))
            ]
        return sorted([_STORE_ITSELF, *names])

    def _scan_folder(self, name: str, known: tuple[str, str] | None) -> tuple[FolderImport | None, str | None, bool]:
        """What is to be listed of a folder, what was done, and whether it is still being copied."""
        try:
            reason = self._problem_with(name)
            if reason is not None:
                return (FolderImport(name, "refused", reason=reason) if reason else None), None, False
            folder = adapter_folder(self._registry.store / name)
            assert folder is not None
            files = read_folder(folder, self._registry.own_folder)
        except FileNotFoundError:  # it is being moved or taken away at this moment
            return FolderImport(name, "waiting", reason="it is being moved"), None, True
        except OSError as error:  # one folder must not delay the others
            return FolderImport(name, "waiting", reason=f"it cannot be read: {error.strerror}"), None, False
        if known is not None and (known[0] == files.plain_fingerprint or known[0] == files.fingerprint):
            return _listed(name, known[1]), None, False
        if not self._has_settled(name, files):
            return FolderImport(name, "waiting", reason="it is being copied"), None, True
        return self._import(name, folder, files, first=known is None)

    def _import(
        self, name: str, folder: Path, files: FolderFiles, first: bool
    ) -> tuple[FolderImport, str | None, bool]:
        try:
            outcome = self._copy_and_add(name, folder, files, first)
        except (StorageFull, DamagedStore, NotReady) as error:  # not the folder's fault: tried again
            return FolderImport(name, "waiting", reason=error.message), None, False
        except ManyhatsError as error:
            outcome = _Outcome(_REFUSED + error.message)
        except OSError as error:
            return FolderImport(name, "waiting", reason=f"it cannot be read: {error.strerror}"), None, False
        except Exception as error:  # one folder must not delay the others
            logger.exception("reading the adapter folder %s failed", name)
            outcome = _Outcome(f"{_REFUSED}{error}")
        if outcome is None:
            return FolderImport(name, "waiting", reason="it changed while it was copied"), None, True
        with suppress(StorageFull, NotReady):  # then the next scan finds that it is there already
            self._registry.record_import(name, files.fingerprint, outcome.recorded())
        return _listed(name, outcome.recorded()), outcome.text, False

    def _problem_with(self, name: str) -> str | None:
        """Why a folder cannot be imported, whatever its files say; empty where there is nothing to say of it."""
        store = self._registry.store
        if name == _STORE_ITSELF:
            loose = [mark for mark in MARKS if (store / mark).is_file()]
            place = "lies in the store itself; put the adapter into a folder with its task's name"
            return f"{loose[0]} {place}" if loose else ""
        folder = store / name
        if not folder.is_dir():
            return "it is a link that leads nowhere"
        real = Path(os.path.realpath(folder))
        if folder.is_symlink() and (
            Path(os.path.realpath(store)).is_relative_to(real)
            or real.is_relative_to(os.path.realpath(self._registry.own_folder))
        ):
            return "it is a link to the store itself"
        if adapter_folder(folder) is None:
            deeper = self._deeper(folder)
            return deeper and f"its adapter lies deeper, in {deeper}; copy or link that folder into the store"
        if not is_name(name) or name == BASE:
            return (
                f"'{name}' cannot be a task's name; names are 1 to 128 letters, digits, '.', '_' and '-', begin with a "
                f"letter or digit, and are not '{BASE}'"
            )
        return None

    def _deeper(self, folder: Path) -> str:
        """Where an adapter lies two levels below a folder; empty where there is none. Looked for when that changes."""
        changed = folder.stat().st_mtime_ns
        before = self._deeper_adapters.get(folder.name)
        if before is None or before[0] != changed:
            found = next((path for mark in MARKS for path in folder.glob(f"*/*/{mark}")), None)
            before = changed, found.parent.relative_to(folder).as_posix() if found is not None else ""
            self._deeper_adapters[folder.name] = before
        return before[1]

    def _has_settled(self, name: str, files: FolderFiles) -> bool:
        age = time.time() - files.newest
        if self._settled < 0 or age >= self._settled:
            return True
        now = time.monotonic()
        before = self._changing.get(name)
        if before is None or before[:2] != (files.fingerprint, files.newest):
            self._changing[name] = files.fingerprint, files.newest, now
            return False
        return now - before[2] >= self._settled

    def _copy_and_add(self, name: str, folder: Path, files: FolderFiles, first: bool) -> _Outcome | None:
        """None where the folder changed meanwhile. `first`: this server has not dealt with it before."""
        files.chosen()  # what cannot be imported is refused before anything is staged
        with self._registry.stage() as staged:
            left_out = files.copy_to(staged)
            if read_folder(folder, self._registry.own_folder).fingerprint != files.fingerprint:
                return None
            before = CURRENT_CALL.set(SCANNER)
            try:
                # What another server has taken in already, from a folder like this one, moves no alias again.
                activate = not (first and self._registry.holds_elsewhere(name, staged))
                version, created = self._registry.add_version(name, staged, activate=activate)
            finally:
                CURRENT_CALL.reset(before)
        what = "taken in" if created else "already there"
        notes = ["left out: " + "; ".join(left_out)] if left_out else []
        return _Outcome(f"{what} as version {version.number}", (*notes, *version.info.warnings))

    def _log(self, found: dict[str, FolderImport], done: dict[str, str]) -> None:
        """Logs a line for each folder whose state is another than at the last scan."""
        for name, now in found.items():
            if now == self._listed.get(name) or (now.status == "waiting" and now.reason == "it is being copied"):
                continue
            if now.status == "refused":
                logger.warning("the adapter folder %s is refused: %s", name, now.reason)
            elif now.status == "waiting":
                logger.warning("the adapter folder %s is not imported yet: %s", name, now.reason)
            elif name in done:
                level = logging.WARNING if now.reason else logging.INFO
                reason = f"; {now.reason}" if now.reason else ""
                logger.log(level, "the adapter folder %s: %s%s", name, done[name], reason)


def _listed(name: str, outcome: str) -> FolderImport:
    """What is listed of a folder by what was recorded of it."""
    if outcome.startswith(_REFUSED):
        return FolderImport(name, "refused", reason=outcome.removeprefix(_REFUSED))
    text, _, notes = outcome.partition("; ")
    number = re.search(r"version (\d+)$", text)
    return FolderImport(name, "taken_in", int(number[1]) if number else None, notes or None)

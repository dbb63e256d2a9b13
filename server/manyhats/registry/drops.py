"""Adapter folders that somebody copied into the store by hand: each is taken in once, as a version of its task.

The folder's name is the task's. It is copied, never moved or changed. What became of it is remembered by a
fingerprint of its files, so that a restart, a rollback or a deletion of the task is not undone by it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from manyhats.errors import ManyhatsError, StorageFull, TooLarge
from manyhats.registry.names import BASE, is_name
from manyhats.registry.registry import Registry

logger = logging.getLogger(__name__)

_MARKS = ("adapter_config.json", "adapter_fusion_config.json", "adapter_setup.json", "manyhats.json")
SETTLED = 2.0  # seconds without a change after which a folder counts as copied
_FILE_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class DropOutcome:
    """What became of a folder."""

    folder: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.folder}: {self.outcome}"


def scan(registry: Registry, *, settled: float = SETTLED) -> tuple[list[DropOutcome], bool]:
    """Takes in folders that are new or have changed, and have lain still for `settled` seconds.

    Returns what was done, and whether a folder is still being copied, so that another look is due.
    """
    outcomes: list[DropOutcome] = []
    waiting = False
    known = registry.drops()
    for folder in _folders(registry.store):
        try:
            fingerprint, newest = _fingerprint(folder)
        except OSError:  # it is being moved or taken away at this moment
            waiting = True
            continue
        if known.get(folder.name) == fingerprint:
            continue
        if time.time() - newest < settled:
            waiting = True
            continue
        try:
            outcome = _take_in(registry, folder)
        except StorageFull as error:  # not the folder's fault: tried again
            logger.warning("the adapter folder %s waits: %s", folder.name, error.message)
            continue
        except ManyhatsError as error:
            outcome = f"refused: {error.message}"
            logger.warning("the adapter folder %s is refused: %s", folder.name, error.message)
        except OSError as error:
            logger.warning("the adapter folder %s cannot be read: %s", folder.name, error)
            continue
        except Exception as error:  # one folder must not hold up the others
            outcome = f"refused: {error}"
            logger.exception("the adapter folder %s is refused", folder.name)
        registry.remember_drop(folder.name, fingerprint, outcome)
        outcomes.append(DropOutcome(folder.name, outcome))
    return outcomes, waiting


def _folders(store: Path) -> list[Path]:
    """Direct subfolders that hold an adapter and whose name can be a task's."""
    found = []
    with os.scandir(store) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False) or not is_name(entry.name) or entry.name == BASE:
                continue
            folder = Path(entry.path)
            try:
                if _holds_adapter(folder):
                    found.append(folder)
            except OSError as error:  # one folder must not hold up the others
                logger.debug("the folder %s cannot be looked into: %s", folder.name, error)
    return sorted(found)


def _holds_adapter(folder: Path) -> bool:
    """Whether an adapter lies in a folder, or in a folder inside it."""
    places = [folder, *(child for child in folder.iterdir() if child.is_dir())]
    return any((place / mark).is_file() for place in places for mark in _MARKS)


def _files(folder: Path) -> list[Path]:
    """The folder's files, hidden ones and links left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _fingerprint(folder: Path) -> tuple[str, float]:
    """A digest over names, sizes and times, and the newest time (unix seconds) that a file was changed in place.

    The inode's change time counts: `cp -p` gives a half copied file its old modification time.
    """
    total = hashlib.sha256()
    newest = folder.stat().st_ctime
    for path in _files(folder)[:_FILE_LIMIT]:
        stat = path.stat()
        total.update(f"{path.relative_to(folder).as_posix()}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
        newest = max(newest, stat.st_ctime)
    return total.hexdigest(), newest


def _take_in(registry: Registry, folder: Path) -> str:
    files = _files(folder)
    if len(files) > _FILE_LIMIT:
        raise TooLarge(f"the folder holds {len(files)} files; at most {_FILE_LIMIT} are taken in")
    with registry.stage() as staged:
        for path in files:
            target = staged / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        version, created = registry.add_version(folder.name, staged)
    return f"{'taken in' if created else 'already there'} as version {version.number}"

"""What a store's folder is to a server that would start with it, looked at from beside; nothing in it is changed."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

OWN_FOLDER = ".manyhats"  # of the registry, in the store
LOCK = "lock"


def store_state(store: Path) -> str:
    """In words: whether it is there, can be written, holds a registry, and whether a server has it."""
    if not existing(store).is_dir() or (store.exists() and not store.is_dir()):
        return "no folder"
    if not os.access(existing(store), os.W_OK | os.X_OK):
        return "cannot be written"
    if not store.exists():
        return "not there yet; a server makes it"
    if not (store / OWN_FOLDER).is_dir():
        return "a folder that no server has used yet"
    return "a server has it" if is_locked(store) else "no server has it"


def is_locked(store: Path) -> bool:
    """Whether another process has the store's lock. Where nobody has, it is taken for a moment."""
    file = store / OWN_FOLDER / LOCK
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())

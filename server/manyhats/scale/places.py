"""The folder that a replica has for its own: staging, the local cache of files, its lock.

A replica takes the first folder that no other has, and not one of its own name, so that one that starts anew finds the
files that the one before it has fetched. What decides is a lock that the system gives back when a process ends, however
it ends.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from manyhats.errors import ConfigurationError

FOLDER = "replicas"  # in the store
MOST = 1000  # replicas of one machine, those that are being replaced counted


class Place:
    """A folder below `store`, this process's alone until `give_back`."""

    def __init__(self, store: Path) -> None:
        """Raises ConfigurationError where the store cannot be written, or all places are taken."""
        base = store / FOLDER
        try:
            base.mkdir(parents=True, exist_ok=True)
            self.number, self._lock = _first_free(base)
            self.folder = base / str(self.number)
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the folder '{base}' cannot be used: {error}") from None

    def give_back(self) -> None:
        """Lets another replica have it; its files stay."""
        self._lock.release()

    def link(self, store: Path) -> None:
        """Has the folders that somebody copied into the store in this one, too, by links: what is gone there goes."""
        wanted = {path.name: path for path in store.iterdir() if path.is_dir() and _is_task(path)}
        for path in self.folder.iterdir():
            if path.is_symlink() and path.name not in wanted:
                path.unlink()
        for name, path in wanted.items():
            if not (self.folder / name).exists():
                (self.folder / name).unlink(missing_ok=True)  # a link to what was there once
                (self.folder / name).symlink_to(path.absolute(), target_is_directory=True)


def _first_free(base: Path) -> tuple[int, FileLock]:
    for number in range(MOST):
        lock = FileLock(base / f"{number}.lock", thread_local=False)  # taken in one thread, given back in another
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return number, lock
    raise ConfigurationError(f"'{base}' has {MOST} folders, all in use; end replicas, or give others a --store")


def _is_task(path: Path) -> bool:
    return path.name != FOLDER and not path.name.startswith(".")

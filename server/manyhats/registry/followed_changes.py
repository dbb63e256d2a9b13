"""What other servers change in the same database: brought into memory, and told to who listens, as own changes are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence

from sqlalchemy.orm import Session

from manyhats.registry.alias_changes import AliasChanges
from manyhats.registry.records import Task, Version
from manyhats.registry.rows import read_tasks

_Event = tuple[str, Version | None, str]


class FollowedChanges(AliasChanges):
    """The part of the registry that follows the other servers."""

    _events: deque[_Event]  # that are to be told, in order
    _telling: threading.Lock

    def _bring_in(self, session: Session, names: Collection[str] | None) -> None:
        """Has memory say of these tasks, or of all, what the database says. The database's lock is held."""
        found = {task.name: task for task in read_tasks(session, names)}
        for name in {task.name for task in self.all()} | found.keys() if names is None else names:
            before, after = self.find(name), found.get(name)
            if before != after:
                self._replace(before, after, name)

    def _replace(self, before: Task | None, after: Task | None, name: str) -> None:
        """`after` in the place of `before`; None: there is none."""
        same = before is not None and after is not None and before.created == after.created
        removed: Sequence[Version] = ()
        unneeded: list[str] = []
        if before is not None and not same:  # a task of that name that was made since has numbers of its own
            removed = before.versions
            self._remove(name)
            unneeded = self._decref(removed)
        if after is not None:
            self._put(after)
        if before is not None and after is not None and same:
            left = {version.number for version in after.versions}
            removed = [version for version in before.versions if version.number not in left]
            unneeded = self._decref(removed)
        for sha in unneeded:
            self._forget(sha)
        self._events.extend(("deleted", version, name) for version in removed)
        if after is None:
            return
        for alias, targets in after.aliases.items():
            if not same or before is None or before.aliases.get(alias) != targets:
                self._events.extend(("activated", after.version(target.version), name) for target in targets)
        self._events.append(("changed", None, name))

    def _tell_changes(self) -> None:
        """Tells who listens of what was brought in. Without the database's lock: they may take their time."""
        while self._events:
            with self._telling:  # in order
                try:
                    event = self._events.popleft()
                except IndexError:
                    return
                self._notify(*event)

    def _forget(self, sha256: str) -> None:
        """No version needs a content any more; its files are removed by the server that removed the version."""
        raise NotImplementedError

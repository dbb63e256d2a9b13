"""Removing contents that no version needs, after a time of grace. Safe beside servers that upload the same contents.

A content is removed when no version has named it, and nobody has put it, for the time of grace; what is found unneeded
without a mark is marked first. Both are looked at once more under the lock that an upload holds from when it sees its
files in place until its version is in the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from manyhats.errors import ConfigurationError
from manyhats.registry.blobs.base import Blobs, Leftover
from manyhats.registry.blobs.owner import lock
from manyhats.registry.database import VersionRow

_BATCH = 10  # contents that are deleted under the lock at once
_STAGED = 86_400.0  # seconds after which nothing staged is still on its way

Write = Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was done, or in a dry run would be. Contents by sha256.

    `removed`: deleted; `waiting`: not needed, and deleted when the time of grace is over; `marked`: of these, those
    found now; `missing`: what a version needs and the store does not have; `leftovers`: what uploads had left;
    `cached`: what was removed of this machine's copies.
    """

    needed: int
    removed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)


def collect(blobs: Blobs, write: Write, grace: float, *, dry_run: bool = False) -> Collected:
    """Deletes what has not been needed for `grace` seconds. `write`: a session that writes, one at a time.

    Raises ConfigurationError where the store has nothing of what versions need, and StoreUnavailable where an object
    store does not answer; what was done until then stays done.
    """
    stored, marks = blobs.stored(), blobs.marks()
    with write() as session:
        needed = _needed(session)
    if needed and not needed & stored.keys():
        raise ConfigurationError(
            f"the blobs have none of the {len(needed)} contents that versions need; they are another store's, or lost. "
            "Nothing is removed"
        )
    now = time.time()
    result = Collected(len(needed), missing=sorted(needed - stored.keys()))
    over: list[str] = []
    for sha in sorted(stored.keys() - needed):
        since = max(marks.get(sha, now), stored[sha])
        (over if now - since >= grace else result.waiting).append(sha)
        if sha not in marks:
            result.marked.append(sha)
            if not dry_run:
                blobs.mark(sha)
    result.leftovers.extend(one for one in blobs.leftovers() if now - one.modified >= max(grace, _STAGED))
    result.cached.extend(sorted(blobs.cached() - needed))
    if dry_run:
        result.removed.extend(over)
        return result
    for first in range(0, len(over), _BATCH):
        with write() as session:
            if blobs.shared:
                lock(session)
            needed_now = _needed(session)
            for sha in over[first : first + _BATCH]:
                if sha not in needed_now and blobs.delete(sha, now - grace):
                    result.removed.append(sha)
    blobs.unmark([*result.removed, *(sha for sha in marks if sha in needed or sha not in stored)])
    for leftover in result.leftovers:
        blobs.delete_leftover(leftover)
    for sha in result.cached:
        blobs.forget(sha)
    return result


def _needed(session: Session) -> set[str]:
    """Every content that a version has, or is made of, by the database."""
    needed: set[str] = set()
    for sha, info in session.execute(select(VersionRow.sha256, VersionRow.info)):
        needed.update((sha, *info.get("references", ())))
    return needed

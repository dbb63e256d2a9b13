"""What the registry keeps in memory: every read is answered from here, and never waits for the disk."""

from __future__ import annotations

import random
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable

from rapidfuzz import fuzz, process

from manyhats.core.call import CURRENT_CALL
from manyhats.errors import Conflict, DamagedStore, NotFound
from manyhats.registry.names import parse_ref
from manyhats.registry.paging import SortedNames
from manyhats.registry.records import AdapterInfo, Task, Version
from manyhats.registry.rollout import AFFINITY, chosen
from manyhats.registry.uses import ContentUses, contents_of
from manyhats.registry.visibility import sees, sees_all

_MAX_SEEN = 1024  # callers' patterns whose names are kept
_MAX_SEEN_NAMES = 1_000_000  # of all these together
_SEARCHED = 10_000  # names that are searched for the nearest ones: about a millisecond


class AdapterIndex:
    """All tasks, which versions name each content, and how many requests need it. Safe from any thread."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng  # samples one of the versions of a split
        self._lock = threading.Lock()  # guards what follows
        self._tasks: dict[str, Task] = {}
        self._names = SortedNames()
        self._uses = ContentUses()
        self._pins: dict[str, int] = {}  # requests by sha256
        # The names that callers of some tasks see, those that asked longest ago first.
        self._seen: OrderedDict[re.Pattern[str], SortedNames] = OrderedDict()

    # ---- reading

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return len(self._tasks)

    @property
    def seen_count(self) -> int:
        """How many tasks there are for the caller."""
        with self._lock:
            return len(self._seen_names())

    def all(self) -> list[Task]:
        """All tasks, whoever asks."""
        with self._lock:
            return list(self._tasks.values())

    def find(self, name: str) -> Task | None:
        """The task of that name, whoever asks, or None."""
        with self._lock:
            return self._tasks.get(name)

    def task(self, name: str) -> Task:
        """Raises NotFound, naming the nearest names, also where it is not there for the caller."""
        found = self.find(name)
        allowed = CURRENT_CALL.get().caller.tasks
        if found is not None and (allowed is None or allowed.fullmatch(name)):
            return found
        with self._lock:
            names = self._seen_names().around(name, _SEARCHED)
        near = process.extract(name[:128], names, scorer=fuzz.ratio, limit=3, score_cutoff=50)
        nearest = f" Nearest: {', '.join(f'`{found}`' for found, _, _ in near)}." if near else ""
        raise NotFound(f"The task `{name[:200]}` does not exist.{nearest}", param="task")

    def tasks(self, limit: int, page_token: str | None, search: str | None = None) -> tuple[list[Task], str | None]:
        """A page of the tasks that the caller sees, by name, and the token of the next page.

        Raises InvalidRequest for another's token.

        `search`: of those whose names contain it, in whatever case.
        """
        with self._lock:
            names, following = self._seen_names().page(limit, page_token, search or "")
            return [self._tasks[name] for name in names], following

    def lookup(self, ref: str) -> tuple[Task, Version | None]:
        """The task that `task`, `task@alias` or `task@3` names, and the version; None for a plain name."""
        task = self.task(parse_ref(ref).task)
        return task, self.resolve(ref) if "@" in ref else None

    def resolve(self, ref: str, affinity: str | None = None) -> Version:
        """The version that `task`, `task@alias` or `task@3` means now; of a split, one by its weight.

        Of a split, the same `affinity` gets the same version; None: that of the header of the present call, and
        without one any.

        Raises NotFound, and DamagedStore for an alias that the database has lost the version of.
        """
        wanted = parse_ref(ref)
        task = self.task(wanted.task)
        if wanted.number is not None:
            return task.version(wanted.number)
        assert wanted.alias is not None
        if wanted.alias in task.lost:
            raise DamagedStore(f"in the task `{task.name}` {task.lost[wanted.alias]}; point it at one", param="task")
        targets = task.aliases.get(wanted.alias)
        if not targets:
            known = ", ".join(sorted(task.aliases)) or "none"
            raise NotFound(
                f"The task `{task.name}` has no alias '{wanted.alias}'; it has {known}, and versions "
                f"{', '.join(str(v.number) for v in task.versions[-20:]) or 'none'}.",
                param="task",
            )
        if len(targets) == 1:
            return task.version(targets[0].version)
        if affinity is None:
            rollout = task.rollouts.get(wanted.alias)
            affinity = CURRENT_CALL.get().header((rollout and rollout.affinity) or AFFINITY)
        if affinity is not None:
            weights = {target.version: target.weight for target in targets}
            return task.version(chosen(weights, f"{task.name}@{wanted.alias}", affinity))
        (sampled,) = self._rng.choices(targets, weights=[target.weight for target in targets])
        return task.version(sampled.version)

    def _seen_names(self) -> SortedNames:
        """The names of the tasks that the caller sees. The lock is held."""
        allowed = CURRENT_CALL.get().caller.tasks
        if allowed is None:
            return self._names
        names = self._seen.get(allowed)
        if names is None:
            names = self._seen[allowed] = SortedNames(filter(allowed.fullmatch, self._names))
            while len(self._seen) > 1 and (
                len(self._seen) > _MAX_SEEN or sum(map(len, self._seen.values())) > _MAX_SEEN_NAMES
            ):
                self._seen.popitem(last=False)
        self._seen.move_to_end(allowed)
        return names

    def may_use(self, sha256: str) -> bool:
        """Whether the caller sees a task with this content, or sees all."""
        return sees_all() or any(sees(version.task) for version in self.needing(sha256))

    def uses(self, sha256: str) -> bool:
        """Whether any version needs this content."""
        with self._lock:
            return sha256 in self._uses

    def needing(self, sha256: str) -> list[Version]:
        """All versions that need this content."""
        with self._lock:
            named = [(self._tasks.get(task), number) for task, number in self._uses.of(sha256)]
        return [
            version
            for task, number in named
            for version in (() if task is None else task.versions)
            if version.number == number
        ]

    def check_reading(self, sha256: str, info: AdapterInfo) -> None:
        """Raises Conflict where a version has the same content, and its head is read for something else there."""
        for version in self.needing(sha256):
            if version.sha256 == sha256 and not version.info.allows(info.kind) and not info.allows(version.info.kind):
                where = f"as {version.ref}" if sees(version.task) else "already, and are"
                raise Conflict(
                    f"the same files are stored {where} of kind '{version.info.kind}', and cannot be of kind "
                    f"'{info.kind}' as well; delete that version first, or change the files",
                    param="kind",
                )

    # ---- pins

    def pin(self, ref: str, affinity: str | None = None) -> Version:
        """`resolve`, and keeps the version's files until `unpin`, whatever is deleted meanwhile.

        Those of the members that it is made of, too: they may be read only when its turn comes.
        """
        while True:
            version = self.resolve(ref, affinity)
            with self._lock:
                if version.sha256 in self._uses:  # not deleted between the two steps
                    for sha in contents_of(version):
                        self._pins[sha] = self._pins.get(sha, 0) + 1
                    return version

    def drop_pin(self, version: Version) -> list[str]:
        """Undoes `pin`; the contents that nobody needs any more."""
        orphans = []
        with self._lock:
            for sha in contents_of(version):
                self._pins[sha] -= 1
                if not self._pins[sha]:
                    del self._pins[sha]
                    if sha not in self._uses:
                        orphans.append(sha)
        return orphans

    def is_needed(self, sha256: str) -> bool:
        """Whether any version or request needs this content."""
        with self._lock:
            return sha256 in self._uses or sha256 in self._pins

    # ---- writing (the registry calls these after its commits)

    def _load(self, tasks: Iterable[Task]) -> None:
        """Replaces everything by these tasks."""
        with self._lock:
            self._tasks = {task.name: task for task in tasks}
            self._names = SortedNames(self._tasks)
            self._seen.clear()
            self._uses = ContentUses()
            for task in self._tasks.values():
                for version in task.versions:
                    self._uses.add(version)

    def _put(self, task: Task) -> Task:
        """Puts a task in the place of the one of its name; its new versions count as uses of their content."""
        with self._lock:
            before = self._tasks.get(task.name)
            if before is None:
                self._names.add(task.name)
                for allowed, names in self._seen.items():
                    if allowed.fullmatch(task.name):
                        names.add(task.name)
            known = {version.number for version in before.versions} if before else set()
            for version in task.versions:
                if version.number not in known:
                    self._uses.add(version)
            self._tasks[task.name] = task
        return task

    def _remove(self, task: str) -> None:
        """Removes a task. `_decref` is to follow for its versions."""
        with self._lock:
            del self._tasks[task]
            for names in (self._names, *self._seen.values()):
                names.discard(task)

    def _decref(self, versions: Iterable[Version]) -> list[str]:
        """Removes a use of each content that these versions need; the contents that nobody needs any more."""
        with self._lock:
            return [sha for version in versions for sha in self._uses.remove(version) if sha not in self._pins]

    def contents(self) -> set[str]:
        """The sha256 of everything that a version needs."""
        with self._lock:
            return self._uses.contents()

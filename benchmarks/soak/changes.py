"""Changes of tasks while they are asked: new versions, rollbacks, aliases, splits, deletions, residency by hand."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from soak.asking import REFUSALS
from soak.material import Piece
from soak.tally import Tally
from soak.truth import NOTHING, Digests, Truth

STABLE, CANARY = "stable", "canary"
MOST_VERSIONS = 5  # of a task, before old ones are taken away


@dataclass(slots=True)
class TaskState:
    """What the server is to know of a task. `versions`: digests by number, and `names` the pieces' names."""

    name: str
    kind: str
    versions: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, list[int]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    busy: bool = False
    pinned: bool = False


class Refused(Exception):
    """The server had too much to do, and says so."""


class Changes:
    """The tasks, and what is done to them. `digests`: of pieces by name."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        truth: Truth,
        tally: Tally,
        pieces: Sequence[Piece],
        digests: dict[str, str],
        pick: random.Random,
    ) -> None:
        self._session = session
        self._truth = truth
        self._tally = tally
        self._pick = pick
        self._pieces: dict[str, list[Piece]] = {}
        for piece in pieces:
            self._pieces.setdefault(piece.kind, []).append(piece)
        self._digests = digests
        self.tasks: list[TaskState] = []

    async def create(self, pieces: Sequence[Piece]) -> None:
        """A task for each piece."""
        for piece in pieces:
            task = TaskState(f"task-{len(self.tasks):04d}", piece.kind)
            self.tasks.append(task)
            await self._upload(task, piece, STABLE)

    async def keep_changing(self, rate: float, stop: asyncio.Event) -> None:
        """So many changes a second, one after another for a task and several at once for all."""
        under_way: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            free = [task for task in self.tasks if not task.busy]
            if free and len(under_way) < 4:
                job = asyncio.create_task(self._change(self._pick.choice(free)))
                under_way.add(job)
                job.add_done_callback(under_way.discard)
            await asyncio.sleep(self._pick.expovariate(rate))
        await asyncio.gather(*under_way)

    async def _change(self, task: TaskState) -> None:
        task.busy = True
        name, change = self._choose(task)
        try:
            await change(task)
            self._tally.changes[name] += 1
        except Refused:
            self._tally.changes["refused"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self._tally.fault("lost", name, task.name, repr(error))
            return  # stays busy: whether it was done is not known
        except Exception as error:
            self._tally.fault("wrong", name, task.name, repr(error))
            return
        task.busy = False

    def _choose(self, task: TaskState) -> tuple[str, Callable[[TaskState], Awaitable[None]]]:
        if not task.versions:
            return "create", self._new_version
        if len(task.versions) > MOST_VERSIONS:
            return "delete version", self._delete_version
        several = len(task.versions) > 1
        return self._pick.choice(
            [
                ("new version", self._new_version), ("new version", self._new_version),
                ("new version beside", self._new_beside),
                ("rollback", self._rollback) if several else ("new version", self._new_version),
                ("alias", self._move) if several else ("new version beside", self._new_beside),
                ("split", self._split) if several else ("new version beside", self._new_beside),
                ("delete", self._delete),
                ("residency", self._residency),
            ]
        )  # fmt: skip

    async def _new_version(self, task: TaskState) -> None:
        await self._upload(task, self._fresh(task), STABLE)

    async def _new_beside(self, task: TaskState) -> None:
        await self._upload(task, self._fresh(task), CANARY)

    def _fresh(self, task: TaskState) -> Piece:
        return self._pick.choice([p for p in self._pieces[task.kind] if p.name not in task.names.values()])

    async def _upload(self, task: TaskState, piece: Piece, alias: str) -> None:
        digest = self._digests[piece.name]
        form = aiohttp.FormData()
        for name, data in piece.parts():
            form.add_field("files", data, filename=name)
        form.add_field("alias", alias)
        body = await self._doing(
            task, alias, frozenset({digest}), self._session.post(f"/v1/tasks/{task.name}/versions", data=form), 201
        )
        if body["sha256"] != digest:
            raise ValueError(f"the upload of {digest[:8]} became {body['sha256'][:8]}")
        number = body["version"]
        task.versions[number], task.names[number] = digest, piece.name
        task.gone.discard(number)
        self._take_aliases(task, body["aliases"])

    async def _rollback(self, task: TaskState) -> None:
        everything = frozenset(task.versions.values())
        call = self._session.post(f"/v1/tasks/{task.name}/rollback", json={})
        body = await self._doing(task, STABLE, everything, call, 200, 409)
        # A conflict: it has pointed at nothing else that is still there.
        self._take_aliases(task, task.aliases if body is None else body["aliases"])

    async def _move(self, task: TaskState) -> None:
        alias, number = self._pick.choice((STABLE, CANARY)), self._pick.choice(list(task.versions))
        await self._point(task, alias, {"version": number}, [number])

    async def _split(self, task: TaskState) -> None:
        numbers = self._pick.sample(list(task.versions), 2)
        split = [{"version": n, "weight": w} for n, w in zip(numbers, (70, 30), strict=True)]
        await self._point(task, STABLE, {"split": split}, numbers)

    async def _point(self, task: TaskState, alias: str, sent: dict[str, Any], numbers: list[int]) -> None:
        digests = frozenset(task.versions[n] for n in numbers)
        call = self._session.put(f"/v1/tasks/{task.name}/aliases/{alias}", json=sent)
        body = await self._doing(task, alias, digests, call, 200)
        self._take_aliases(task, body["aliases"])
        if sorted(task.aliases[alias]) != sorted(numbers):
            raise ValueError(f"{alias} was set to {numbers} and is {task.aliases[alias]}")

    async def _delete_version(self, task: TaskState) -> None:
        used = {n for numbers in task.aliases.values() for n in numbers}
        free = [n for n in task.versions if n not in used]
        if not free:
            await self._point(task, CANARY, {"version": task.aliases[STABLE][0]}, task.aliases[STABLE][:1])
            return
        number = self._pick.choice(free)
        ref = f"{task.name}@{number}"
        self._truth.set(ref, self._truth.now(ref) | NOTHING, time.perf_counter())
        await self._answer(self._session.delete(f"/v1/tasks/{task.name}/versions/{number}"), 204)
        self._truth.set(ref, NOTHING, time.perf_counter())
        del task.versions[number], task.names[number]
        task.gone.add(number)

    async def _delete(self, task: TaskState) -> None:
        refs = self._refs(task)
        for ref in refs:
            self._truth.set(ref, self._truth.now(ref) | NOTHING, time.perf_counter())
        await self._answer(self._session.delete(f"/v1/tasks/{task.name}"), 204)
        for ref in refs:
            self._truth.set(ref, NOTHING, time.perf_counter())
        task.versions.clear()
        task.names.clear()
        task.aliases.clear()
        task.gone.clear()
        task.pinned = False

    async def _residency(self, task: TaskState) -> None:
        if task.pinned:
            await self._answer(self._session.post(f"/v1/tasks/{task.name}/unpin", json={}), 200)
            task.pinned = False
            return
        calls = ["load", "unload"] + (["pin"] if sum(t.pinned for t in self.tasks) < 3 else [])
        call = self._pick.choice(calls)
        await self._answer(self._session.post(f"/v1/tasks/{task.name}/{call}", json={}), 200)
        task.pinned = call == "pin"

    async def _doing(self, task: TaskState, alias: str, new: Digests, call: Any, *well: int) -> Any:
        """What an alias answers may be the old and the new until the change is answered."""
        refs = [self._ref(task, alias)] + ([f"{task.name}@1"] if not task.versions else [])
        before = {ref: self._truth.now(ref) for ref in refs}
        for ref in refs:
            self._truth.set(ref, before[ref] | new, time.perf_counter())
        try:
            return await self._answer(call, *well)
        except Refused:
            for ref in refs:
                self._truth.set(ref, before[ref], time.perf_counter())
            raise

    async def _answer(self, call: Any, *well: int) -> Any:
        """The answer's JSON; None where it is a conflict that may be. Raises Refused, and ValueError for the others."""
        async with call as response:
            data = await response.read()
            if response.status in REFUSALS:
                raise Refused
            if response.status not in well:
                raise ValueError(f"{response.method} {response.url.path}: {response.status} {data[:300]!r}")
            return await response.json() if data and response.status < 300 else None

    def _take_aliases(self, task: TaskState, aliases: dict[str, Any]) -> None:
        """What the server says that they are; from now on nothing else may answer."""
        task.aliases = {alias: _numbers(target) for alias, target in aliases.items()}
        now = time.perf_counter()
        for alias in (STABLE, CANARY):
            digests = frozenset(task.versions[n] for n in task.aliases.get(alias, ()))
            self._truth.set(self._ref(task, alias), digests or NOTHING, now)
        for number, digest in task.versions.items():
            if self._truth.now(f"{task.name}@{number}") != {digest}:
                self._truth.set(f"{task.name}@{number}", frozenset({digest}), now)

    def _ref(self, task: TaskState, alias: str) -> str:
        return task.name if alias == STABLE else f"{task.name}@{alias}"

    def _refs(self, task: TaskState) -> list[str]:
        return [task.name, f"{task.name}@{CANARY}", *(f"{task.name}@{n}" for n in task.versions)]

    def name(self, task: TaskState) -> str:
        """How a request names it: mostly by its name alone."""
        chance = self._pick.random()
        if chance < 0.85:
            return task.name
        if chance < 0.9:
            return f"{task.name}@{CANARY}"
        numbers = [*task.versions, *sorted(task.gone)[-1:]]
        return f"{task.name}@{self._pick.choice(numbers)}" if numbers else task.name


def _numbers(target: Any) -> list[int]:
    """Of an alias as the server writes it: a version's number, or a split. Or as it is kept here."""
    if isinstance(target, int):
        return [target]
    return [part if isinstance(part, int) else part["version"] for part in target]

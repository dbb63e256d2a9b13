"""What one name costs does not depend on how many others there are. Steps are counted, not time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
from manyhats.core.call import CURRENT_CALL, Call, Caller
from manyhats.errors import NotFound
from manyhats.registry.database import AliasRow, TaskRow, VersionRow
from manyhats.registry.pinning import Pinning
from manyhats.registry.records import AdapterInfo, Target
from manyhats.registry.registry import Registry
from manyhats.registry.stores.sqlite import connect
from sqlalchemy import Engine, event, insert

from tests.registry.helpers import upload

Open = Callable[..., Registry]
FEW, MANY = 100, 4_000
FEW_NAMES = re.compile("task-000[0-9]{2}")
INFO = asdict(AdapterInfo("lora", "classify", 8, 1, 10, None, None, None, {}))


def name(number: int) -> str:
    return f"task-{number:05}"


def filled(store: Path, count: int, opened: Open) -> Registry:
    """A registry with so many tasks, as if each had been uploaded."""
    root = store / ".manyhats"
    root.mkdir(parents=True)
    sessions = connect(root / "registry.sqlite3")
    names = [name(number) for number in range(count)]
    with sessions.begin() as session:
        session.execute(
            insert(TaskRow), [{"name": n, "created": 0.0, "settings": {}, "next_version": 2} for n in names]
        )
        session.execute(
            insert(VersionRow),
            [
                {"task": n, "number": 1, "sha256": f"{i:064x}", "created": 0.0, "info": INFO}
                for i, n in enumerate(names)
            ],
        )
        session.execute(insert(AliasRow), [{"task": n, "alias": "stable", "targets": [[1, 1.0]]} for n in names])
    sessions.kw["bind"].dispose()
    return opened(store)


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that is run."""
    seen: list[str] = []

    def ran(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", ran)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", ran)


def lines(job: Callable[[], object]) -> int:
    """How many lines of Python a job runs through."""
    count = 0

    def step(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal count
        count += what == "line"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        job()
    finally:
        sys.settrace(before)
    return count


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Registry]]:
    """A registry of few tasks, and one of many."""
    left: list[Registry] = []

    def opened(store: Path) -> Registry:
        registry = Registry(store, lambda folder, kind: AdapterInfo(**INFO))
        with statements() as seen:
            registry.open()
        registry.opening = len(seen)  # type: ignore[attr-defined]
        left.append(registry)
        return registry

    root = tmp_path_factory.mktemp("many")
    yield filled(root / "few", FEW, opened), filled(root / "many", MANY, opened)
    for registry in left:
        registry.close()


class Unpinned:
    """Stands for an adapter cache."""

    def unpin(self, sha256: str) -> None:
        """Does nothing."""


def seeing_few(job: Callable[[], object]) -> object:
    """Does it for a caller of a hundred tasks."""
    before = CURRENT_CALL.set(Call(caller=Caller(tasks=FEW_NAMES)))
    try:
        return job()
    finally:
        CURRENT_CALL.reset(before)


def unknown(registry: Registry) -> None:
    """Asks for what is not there."""
    with pytest.raises(NotFound):
        registry.task("nothing")


def come_and_go(registry: Registry) -> None:
    """Makes a task and deletes it."""
    upload(registry, "task-00042x", "y")
    registry.delete_task("task-00042x")


READS: dict[str, Callable[[Registry], object]] = {
    "find": lambda registry: registry.find(name(42)),
    "plain name": lambda registry: registry.resolve(name(42)),
    "alias": lambda registry: registry.resolve(f"{name(42)}@stable"),
    "number": lambda registry: registry.resolve(f"{name(42)}@1"),
    "pin": lambda registry: registry.unpin(registry.pin(name(42))),
    "a page": lambda registry: registry.tasks(20, None),
    "a later page": lambda registry: registry.tasks(20, registry.tasks(20, None)[1]),
    "a search": lambda registry: registry.tasks(20, None, "TASK-000"),
    "a search that finds nothing": lambda registry: registry.tasks(20, None, "nowhere"),
    "a page of who sees few": lambda registry: seeing_few(lambda: registry.tasks(20, None)),
    "a search of who sees few": lambda registry: seeing_few(lambda: registry.tasks(20, None, "7")),
    "how many they see": lambda registry: seeing_few(lambda: registry.seen_count),
    "an unknown name": unknown,
    "the versions of a content": lambda registry: registry.needing(f"{42:064x}"),
    "whether a caller may use a content": lambda registry: seeing_few(lambda: registry.may_use(f"{42:064x}")),
    "whether a content is read for something else": lambda r: r.check_reading(f"{42:064x}", AdapterInfo(**INFO)),
    "unpinning": lambda registry: Pinning(registry, cast("Any", Unpinned())).unpin_unused(
        registry.task(name(42)).versions
    ),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_takes_as_many_steps_among_many_as_among_few(pair: tuple[Registry, Registry], read: str) -> None:
    few, many = pair
    with statements() as seen:
        READS[read](few)  # once before, for what is made only once
        READS[read](many)
        assert lines(lambda: READS[read](few)) == lines(lambda: READS[read](many)) > 0
    assert seen == []


def test_opening_reads_all_tasks_with_as_many_statements_as_few(pair: tuple[Registry, Registry]) -> None:
    few, many = pair
    assert (few.count, many.count) == (FEW, MANY)
    assert few.opening == many.opening > 0  # type: ignore[attr-defined]


def test_a_write_runs_as_many_statements_among_many_as_among_few(pair: tuple[Registry, Registry]) -> None:
    counts = []
    for registry in pair:
        with statements() as seen:
            upload(registry, name(7), "new content")
            registry.set_alias(name(7), "canary", [Target(1), Target(2)])
            registry.put_settings(name(7), {"priority": 3})
            registry.rollback(name(7))
            registry.delete_alias(name(7), "canary")
            registry.delete_version(name(7), 2)
            upload(registry, "another", "x")
            registry.delete_task("another")
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0
    assert [registry.count for registry in pair] == [FEW, MANY]


def test_pages_hold_every_one_of_many_tasks_once(pair: tuple[Registry, Registry]) -> None:
    seen: list[str] = []
    token: str | None = None
    while True:
        page, token = pair[1].tasks(997, token)
        seen += [task.name for task in page]
        if token is None:
            break
    assert seen == [name(number) for number in range(MANY)]


def test_the_nearest_of_many_names_is_found(pair: tuple[Registry, Registry]) -> None:
    with pytest.raises(NotFound, match="Nearest: `task-01234`"):
        pair[1].task("task-1234")


def test_what_callers_see_follows_new_and_deleted_tasks(pair: tuple[Registry, Registry]) -> None:
    """Names are not gone through again: only the new one is compared with what each caller sees."""
    registry = pair[1]
    assert seeing_few(lambda: registry.seen_count) == 100
    counts = [lines(partial(come_and_go, one)) for one in pair for _ in range(2)]
    assert seeing_few(lambda: registry.seen_count) == 100
    upload(registry, "task-000", "z")
    assert seeing_few(lambda: registry.seen_count) == 100
    registry.delete_task("task-000")
    registry.delete_task(name(42))
    assert seeing_few(lambda: [len(registry.tasks(200, None)[0]), registry.seen_count]) == [99, 99]
    upload(registry, name(42), "as before")
    found = cast("Any", seeing_few(lambda: registry.tasks(200, None)[0]))
    assert [task.name for task in found] == [name(number) for number in range(100)]
    assert counts[1] == counts[3] > 0


def test_contents_of_many_tasks_have_all_their_versions(registry: Registry) -> None:
    for task in ("b", "a", "c"):
        upload(registry, task, "the same")
    sha = registry.resolve("a").sha256
    assert [version.ref for version in registry.needing(sha)] == ["b@1", "a@1", "c@1"]
    registry.delete_task("b")
    assert [version.ref for version in registry.needing(sha)] == ["a@1", "c@1"]
    for task in ("a", "c"):
        registry.delete_task(task)
    assert registry.needing(sha) == []
    assert not registry.uses(sha)

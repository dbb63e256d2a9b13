"""What one name costs does not depend on how many others there are. Steps are counted, not time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from manyhats.errors import NotFound
from manyhats.registry.database import AliasRow, TaskRow, VersionRow
from manyhats.registry.records import AdapterInfo, Target
from manyhats.registry.registry import Registry
from manyhats.registry.stores.sqlite import connect
from sqlalchemy import Engine, event, insert

from tests.registry.helpers import upload

Open = Callable[..., Registry]
FEW, MANY = 100, 4_000
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


READS: dict[str, Callable[[Registry], object]] = {
    "find": lambda registry: registry.find(name(42)),
    "plain name": lambda registry: registry.resolve(name(42)),
    "alias": lambda registry: registry.resolve(f"{name(42)}@stable"),
    "number": lambda registry: registry.resolve(f"{name(42)}@1"),
    "pin": lambda registry: registry.unpin(registry.pin(name(42))),
    "a page": lambda registry: registry.tasks(20, None),
    "a later page": lambda registry: registry.tasks(20, registry.tasks(20, None)[1]),
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

"""Who changed what: an entry for each change, with it or not at all, and not more of them than wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from manyhats.core.call import CURRENT_CALL, Call, Caller
from manyhats.errors import Conflict, InvalidRequest, StorageFull
from manyhats.registry.audit import AuditEntry
from manyhats.registry.imports import FolderImports
from manyhats.registry.records import Target, TaskSettings
from manyhats.registry.registry import Registry
from sqlalchemy.orm import Session

from tests.registry.helpers import inspect, upload, write_adapter


@contextmanager
def calling(**caller: Any) -> Iterator[None]:
    before = CURRENT_CALL.set(Call("req-1", Caller(**caller)))
    try:
        yield
    finally:
        CURRENT_CALL.reset(before)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(tmp_path / "store", inspect, audit_entries=20)
    one.open()
    yield one
    one.close()


def entries(registry: Registry, **given: Any) -> list[AuditEntry]:
    return registry.audit.page(1000, None, **given)[0]


def numbers(targets: tuple[Target, ...]) -> list[int]:
    return [one.version for one in targets]


def test_each_change_has_an_entry(registry: Registry) -> None:
    with calling(key="ci", tenant="team"):
        upload(registry, "spam", "one")
        upload(registry, "spam", "one")  # changes nothing
        upload(registry, "spam", "two", alias="canary")
        upload(registry, "spam", "three", activate=False, settings=TaskSettings(max_tokens=9))
        registry.set_alias("spam", "stable", [Target(2)])
        registry.set_alias("spam", "stable", [Target(1, 90), Target(2, 10)])
        registry.rollback("spam")
        registry.rollback("spam", 1)
        registry.put_settings("spam", {"priority": 3, "overflow": "truncate"})
        registry.put_settings("spam", {"pinned": True})
        registry.put_settings("spam", {"pinned": False})
        registry.delete_alias("spam", "canary")
        registry.delete_version("spam", 3)
        registry.delete_task("spam")
    found = entries(registry)[::-1]
    assert {(one.actor, one.tenant, one.request_id, one.task) for one in found} == {("ci", "team", "req-1", "spam")}
    told = [
        (one.action, one.alias, one.version, numbers(one.from_targets), numbers(one.to_targets), one.detail)
        for one in found
    ]
    assert told == [
        ("upload", "stable", 1, [], [1], ""),
        ("upload", "canary", 2, [], [2], ""),
        ("upload", "", 3, [], [], "max_tokens"),
        ("alias", "stable", None, [1], [2], ""),
        ("alias", "stable", None, [2], [1, 2], ""),
        ("rollback", "stable", None, [1, 2], [2], ""),
        ("rollback", "stable", None, [2], [1], ""),
        ("settings", "", None, [], [], "overflow, priority"),
        ("pin", "", None, [], [], "pinned"),
        ("unpin", "", None, [], [], "pinned"),
        ("delete_alias", "canary", None, [2], [], ""),
        ("delete_version", "", 3, [], [], ""),
        ("delete_task", "stable", None, [1], [], ""),
    ]
    assert found[4].to_targets == (Target(1, 90), Target(2, 10))
    assert [one.time for one in found] == sorted(one.time for one in found)


def test_what_fails_has_none(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(registry, "spam", "one")
    before = entries(registry)
    for work in (
        lambda: registry.rollback("spam"),
        lambda: registry.delete_version("spam", 1),
        lambda: registry.delete_alias("spam", "stable"),
    ):
        with pytest.raises(Conflict):
            work()
    from sqlalchemy.exc import OperationalError

    def fails(_: Session) -> None:
        raise OperationalError("", {}, Exception("database or disk is full"))

    monkeypatch.setattr(Session, "commit", fails)
    with pytest.raises(StorageFull):
        registry.put_settings("spam", {"priority": 1})
    assert entries(registry) == before
    assert registry.task("spam").settings.priority == 0


def test_entries_outlive_a_restart_and_the_oldest_go(registry: Registry) -> None:
    upload(registry, "spam", "one")
    for i in range(25):
        registry.put_settings("spam", {"priority": i % 10})
    found = entries(registry)
    assert len(found) == 20
    assert [one.id for one in found] == list(range(26, 6, -1))
    registry.close()
    registry.open()
    assert entries(registry) == found


def test_pages(registry: Registry) -> None:
    for task in ("a", "b"):
        upload(registry, task, "one")
        for i in range(4):
            registry.put_settings(task, {"priority": i})
    seen, token, pages = [], None, 0
    while True:
        page, token = registry.audit.page(3, token)
        seen += page
        pages += 1
        if token is None:
            break
    assert pages == 4
    assert [one.id for one in seen] == list(range(10, 0, -1))
    assert {one.task for one in entries(registry, task="a")} == {"a"}
    assert len(entries(registry, task="a")) == 5
    assert registry.audit.page(5, None, "a")[1] is None
    for token in ("x", "-1", "1" * 30, "١"):
        with pytest.raises(InvalidRequest, match="page_token"):
            registry.audit.page(3, token)


def test_who_sees_some_tasks_sees_their_entries(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from manyhats.registry import audit

    monkeypatch.setattr(audit, "_SEARCHED", 4)
    upload(registry, "b-1", "one")
    for i in range(9):
        registry.put_settings("b-1", {"priority": i})
    upload(registry, "a-1", "one")
    registry.audit.add("key_create", detail=["x"])
    with calling(tasks=re.compile("b-.*")):
        sizes, token = [], None
        for _ in range(10):
            page, token = registry.audit.page(100, token)
            assert {one.task for one in page} <= {"b-1"}
            sizes.append(len(page))
            if token is None:
                break
    assert sizes == [2, 4, 4, 0]


def test_folders_are_the_scanner_s(registry: Registry) -> None:
    write_adapter(registry.store / "copied", "one")
    FolderImports(registry, settled=-1).scan()
    (entry,) = entries(registry)
    assert (entry.actor, entry.action, entry.task, entry.version) == ("scanner", "upload", "copied", 1)
    assert CURRENT_CALL.get().caller.key == ""


def test_a_store_of_before_gets_its_log(registry: Registry) -> None:
    upload(registry, "spam", "one")
    with registry._database.write() as session:
        session.connection().exec_driver_sql("DROP TABLE audit")
        session.commit()
    registry.close()
    registry.open()
    assert entries(registry) == []
    registry.put_settings("spam", {"priority": 1})
    assert [one.action for one in entries(registry)] == ["settings"]

"""Tasks, versions, aliases and settings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from manyhats.errors import AdapterMismatch, Conflict, InvalidRequest, NotFound, TooLarge, UnsupportedFormat
from manyhats.registry.records import Target, TaskSettings
from manyhats.registry.registry import Registry

from tests.registry.helpers import blobs, staged, upload, write_adapter

Open = Callable[..., Registry]


# ---- reading


def test_an_unknown_task_names_the_nearest(registry: Registry) -> None:
    for name in ("spam", "spam-2", "reviews"):
        upload(registry, name, name)
    with pytest.raises(NotFound) as caught:
        registry.task("spm")
    assert caught.value.message.startswith("The task `spm` does not exist. Nearest: `spam`")
    assert "reviews" not in caught.value.message
    with pytest.raises(NotFound, match=r"`zzzzzz` does not exist\.$"):
        registry.task("zzzzzz")


def test_pages_hold_every_task_once_in_order(registry: Registry) -> None:
    names = [f"task-{i}" for i in range(7)]
    for name in reversed(names):
        upload(registry, name, name)
    seen: list[str] = []
    token: str | None = None
    while True:
        page, token = registry.tasks(3, token)
        seen += [task.name for task in page]
        if token is None:
            break
    assert seen == names


def test_a_page_goes_on_where_a_task_was_deleted(registry: Registry) -> None:
    for name in "abcd":
        upload(registry, name, name)
    page, token = registry.tasks(2, None)
    registry.delete_task("b")
    following, end = registry.tasks(2, token)
    assert [task.name for task in (*page, *following)] == list("abcd")
    assert end is None


@pytest.mark.parametrize("token", ["!", "AAAA", "é", "Li4v", "a"])
def test_a_page_token_of_another_is_refused(registry: Registry, token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        registry.tasks(3, token)


def test_references_resolve(registry: Registry) -> None:
    upload(registry, "spam", "one")
    upload(registry, "spam", "two", alias="canary")
    assert registry.resolve("spam").number == registry.resolve("spam@stable").number == 1
    assert registry.resolve("spam@canary").number == registry.resolve("spam@2").number == 2
    with pytest.raises(NotFound, match="canary, stable, and versions 1, 2"):
        registry.resolve("spam@beta")
    with pytest.raises(NotFound, match="1, 2"):
        registry.resolve("spam@3")


def test_a_split_is_drawn_by_weight(store: Path, opened: Open) -> None:
    registry = opened(store, rng=random.Random(7))
    for content in ("one", "two"):
        upload(registry, "spam", content)
    registry.set_alias("spam", "stable", [Target(1, 90.0), Target(2, 10.0)])
    drawn = Counter(registry.resolve("spam").number for _ in range(2000))
    assert 1700 < drawn[1] < 1900
    assert drawn[1] + drawn[2] == 2000


# ---- versions


def test_an_upload_makes_a_version_with_its_files(registry: Registry, store: Path) -> None:
    version = upload(registry, "spam", "one")
    assert (version.ref, version.info.method) == ("spam@1", "lora")
    assert (registry.files(version) / "adapter_model.safetensors").read_bytes().endswith(b"one")
    assert blobs(store) == {version.sha256}
    assert staged(store) == []


def test_everything_is_there_after_a_restart(store: Path, opened: Open) -> None:
    first = opened(store)
    upload(first, "spam", "one", labels=["a", "b"], settings=TaskSettings(labels=["x", "y"], priority=3))
    upload(first, "spam", "two", alias="canary")
    first.set_alias("spam", "stable", [Target(1, 1.0), Target(2, 2.0)])
    before = first.task("spam")
    first.close()
    second = opened(store)
    assert second.task("spam") == before
    assert second.rollback("spam").aliases["stable"] == (Target(1),)


def test_the_same_content_is_one_version_of_a_task(registry: Registry, store: Path) -> None:
    first = upload(registry, "spam", "one")
    upload(registry, "spam", "two")
    with registry.stage() as folder:
        again, created = registry.add_version("spam", write_adapter(folder, "one"))
    assert (again, created) == (first, False)
    assert registry.resolve("spam") == first  # the alias moved nevertheless
    other = upload(registry, "ham", "one")
    assert (other.ref, other.sha256) == ("ham@1", first.sha256)
    assert len(blobs(store)) == 2


def test_a_version_can_be_added_without_being_used(registry: Registry) -> None:
    upload(registry, "spam", "one")
    upload(registry, "spam", "two", activate=False)
    assert registry.resolve("spam").number == 1


def test_numbers_never_come_back(store: Path, opened: Open) -> None:
    registry = opened(store)
    upload(registry, "spam", "one")
    upload(registry, "spam", "two", activate=False)
    registry.delete_version("spam", 2)
    registry.close()
    assert upload(opened(store), "spam", "three").number == 3


def test_what_inspect_refuses_leaves_nothing(registry: Registry, store: Path) -> None:
    with pytest.raises(AdapterMismatch):
        upload(registry, "spam", "one", bad=True)
    with registry.stage() as folder:
        write_adapter(folder)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(UnsupportedFormat):
            registry.add_version("spam", folder)
    assert registry.count == 0
    assert blobs(store) == set()
    assert staged(store) == []


def test_what_a_trainer_left_is_not_stored_and_makes_no_other_content(registry: Registry) -> None:
    """The warnings are those of the upload, also where its content is there already."""
    first = upload(registry, "spam", "one")
    assert first.info.warnings == ()
    with registry.stage() as folder:
        write_adapter(folder, "one")
        (folder / "checkpoint-7").mkdir()
        for name in ("optimizer.pt", "checkpoint-7/adapter_model.safetensors", "LICENSE"):
            (folder / name).write_bytes(b"x")
        again, created = registry.add_version("spam", folder, warnings=["before"])
    assert (created, again.number, again.sha256) == (False, 1, first.sha256)
    before, left_out = again.info.warnings
    assert before == "before"
    assert all(name in left_out for name in ("optimizer.pt", "checkpoint-7/", "LICENSE"))
    assert registry.task("spam").version(1).info.warnings == ()


@pytest.mark.parametrize(("task", "alias", "error"), [("base", "stable", Conflict), ("a/b", "stable", InvalidRequest)])
def test_names_are_checked(registry: Registry, task: str, alias: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        upload(registry, task, "one", alias=alias)
    with pytest.raises(InvalidRequest):
        upload(registry, "spam", "one", alias="7")


def test_the_limits_on_tasks_and_versions_hold(store: Path, opened: Open) -> None:
    registry = opened(store, max_tasks=1, max_versions=2)
    for content in ("one", "two"):
        upload(registry, "spam", content)
    with pytest.raises(TooLarge, match="2 versions"):
        upload(registry, "spam", "three")
    with pytest.raises(TooLarge, match="1 tasks"):
        upload(registry, "ham", "one")
    assert len(blobs(store)) == 2


def test_a_version_in_use_by_an_alias_stays(registry: Registry, store: Path) -> None:
    upload(registry, "spam", "one")
    upload(registry, "spam", "two")
    registry.set_alias("spam", "canary", [Target(1), Target(2)])
    with pytest.raises(Conflict, match="canary, stable"):
        registry.delete_version("spam", 2)
    registry.delete_alias("spam", "canary")
    registry.delete_version("spam", 1)
    assert [v.number for v in registry.task("spam").versions] == [2]
    assert blobs(store) == {registry.resolve("spam").sha256}
    with pytest.raises(NotFound):
        registry.delete_version("spam", 1)


def test_a_blob_stays_while_another_task_has_it(registry: Registry, store: Path) -> None:
    version = upload(registry, "spam", "one")
    upload(registry, "ham", "one")
    registry.delete_task("spam")
    assert blobs(store) == {version.sha256}
    registry.delete_task("ham")
    assert blobs(store) == set()
    with pytest.raises(NotFound):
        registry.delete_task("ham")


# ---- settings


def test_settings_are_set_reset_and_checked(registry: Registry) -> None:
    upload(registry, "spam", "one", settings=TaskSettings(max_tokens=9, priority=2))
    changed = registry.put_settings("spam", {"template": "say {text}", "priority": None})
    assert changed == registry.task("spam")
    assert (changed.settings.max_tokens, changed.settings.template, changed.settings.priority) == (9, "say {text}", 0)
    for wrong in ({"priority": 99}, {"nonsense": 1}, {"nonsense": None}):
        with pytest.raises(InvalidRequest):
            registry.put_settings("spam", wrong)
    assert registry.task("spam") == changed
    with pytest.raises(NotFound):
        registry.put_settings("ham", {})


def test_an_upload_changes_only_the_settings_it_gives(registry: Registry) -> None:
    upload(registry, "spam", "one", settings=TaskSettings(max_tokens=9, priority=2))
    upload(registry, "spam", "two", settings=TaskSettings(priority=5))
    settings = registry.task("spam").settings
    assert (settings.max_tokens, settings.priority) == (9, 5)


def test_settings_of_the_files_hold_until_others_are_given(registry: Registry) -> None:
    version = upload(registry, "spam", "one", brought={"max_tokens": 7, "template": "files: {text}"})
    assert registry.task("spam").settings_for(version).max_tokens == 7
    settings = registry.put_settings("spam", {"max_tokens": 9}).settings_for(version)
    assert (settings.max_tokens, settings.template) == (9, "files: {text}")
    with pytest.raises(InvalidRequest, match="priority"):
        upload(registry, "ham", "one", brought={"priority": 99})


def test_labels_that_do_not_fit_the_head_are_refused(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="labels"):
        upload(registry, "spam", "one", labels=["a", "b"], settings=TaskSettings(labels=["x"]))
    assert registry.count == 0


# ---- aliases


@pytest.mark.parametrize(
    "targets",
    [
        [],
        [Target(1, 0.0)],
        [Target(1, -1.0)],
        [Target(1, float("nan"))],
        [Target(1, float("inf"))],
        [Target(1, 1.0), Target(1, 1.0)],
        [Target(1, 1.5e308), Target(2, 1.5e308)],
        [Target(n) for n in range(1, 18)],
    ],
)
def test_a_split_that_cannot_be_drawn_is_refused(registry: Registry, targets: list[Target]) -> None:
    for content in ("one", "two"):
        upload(registry, "spam", content)
    with pytest.raises(InvalidRequest):
        registry.set_alias("spam", "stable", targets)
    assert registry.resolve("spam").number == 2


def test_an_alias_needs_versions_that_exist(registry: Registry) -> None:
    upload(registry, "spam", "one")
    with pytest.raises(NotFound, match="no version 2"):
        registry.set_alias("spam", "canary", [Target(1), Target(2)])
    with pytest.raises(InvalidRequest):
        registry.set_alias("spam", "12", [Target(1)])
    with pytest.raises(Conflict):
        registry.delete_alias("spam", "stable")
    with pytest.raises(NotFound):
        registry.delete_alias("spam", "canary")


def test_rollbacks_walk_back(registry: Registry) -> None:
    for content in ("one", "two", "three"):
        upload(registry, "spam", content)
    assert registry.rollback("spam").aliases["stable"] == (Target(2),)
    assert registry.rollback("spam").aliases["stable"] == (Target(1),)
    with pytest.raises(Conflict, match="nothing"):
        registry.rollback("spam")
    assert registry.rollback("spam", 3).aliases["stable"] == (Target(3),)
    assert registry.rollback("spam").aliases["stable"] == (Target(1),)
    with pytest.raises(NotFound):
        registry.rollback("spam", 9)


def test_a_rollback_passes_over_deleted_versions(registry: Registry) -> None:
    for content in ("one", "two", "three"):
        upload(registry, "spam", content)
    registry.delete_version("spam", 2)
    assert registry.rollback("spam").aliases["stable"] == (Target(1),)


def test_a_rollback_that_would_change_nothing_is_a_conflict(registry: Registry) -> None:
    for content in ("one", "two", "one"):
        upload(registry, "spam", content)
    registry.delete_version("spam", 2)
    with pytest.raises(Conflict):
        registry.rollback("spam")


# ---- listeners


def test_listeners_hear_after_the_change_and_cannot_break_it(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, str | None, str, int]] = []

    def broken(event: str, version: object, task: str) -> None:
        raise RuntimeError("broken")

    registry.subscribe(broken)
    registry.subscribe(
        lambda event, version, task: heard.append((event, version and version.ref, task, registry.count))
    )
    upload(registry, "spam", "one")
    registry.delete_task("spam")
    assert heard == [("activated", "spam@1", "spam", 1), ("deleted", "spam@1", "spam", 0)]
    assert "broken" in caplog.text

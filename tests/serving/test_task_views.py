"""What holds for a task's version is worked out once, and anew as soon as the task is another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest
from manyhats.registry.records import AdapterInfo, Task, TaskSettings, Version
from manyhats.serving import task_views
from manyhats.serving.task_views import TaskViews

from tests import tiny


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tmp_path_factory.mktemp("base")
    tiny.write_base("bert", folder)
    return tiny.load(folder)


def task_of(name: str = "t", **settings: object) -> tuple[Task, Version]:
    info = AdapterInfo("lora", "classify", 4, 1, 1, None, None, None, {}, num_labels=3)
    version = Version(name, 1, "sha", info, 0.0)
    return Task(name, 0.0, TaskSettings.model_validate(settings), (version,)), version


def test_a_request_without_parameters_asks_nothing_twice(backbone, monkeypatch):
    views = TaskViews(backbone)
    task, version = task_of(defaults={"top_k": 2})
    calls: list[str] = []
    real = task_views.parse_parameters
    monkeypatch.setattr(
        task_views, "parse_parameters", lambda kind, *given: (calls.append(kind), real(kind, *given))[1]
    )
    first = views.complete(views.of(task, version), {}, {}, {})
    assert views.complete(views.of(task, version), {}, {}, {}) is first
    assert first[0].top_k == 2
    assert len(calls) == 1
    given, _ = views.complete(views.of(task, version), {}, {"top_k": 1}, {})
    assert (given.top_k, len(calls)) == (1, 2)
    assert views.complete(views.of(task, version), {}, {}, {}) is first


def test_changed_settings_hold_at_once(backbone):
    views = TaskViews(backbone)
    task, version = task_of()
    before = views.of(task, version)
    assert views.complete(before, {}, {}, {})[0].top_k is None
    changed = replace(task, settings=TaskSettings(defaults={"top_k": 1}, labels=["a", "b", "c"]))
    parameters, settings = views.complete(views.of(changed, version), {}, {}, {})
    assert (parameters.top_k, settings.labels) == (1, ["a", "b", "c"])
    other = replace(version, info=replace(version.info, settings={"max_tokens": 7}))
    assert views.of(replace(task, versions=(other,)), other).settings.max_tokens == 7


def test_what_a_task_may_not_be_asked_is_refused_each_time(backbone):
    views = TaskViews(backbone)
    task, version = task_of(defaults={"top_k": 0})
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="top_k"):
            views.complete(views.of(task, version), {}, {}, {})


def test_there_are_never_more_than_the_limit(backbone, monkeypatch):
    monkeypatch.setattr(task_views, "_MAX_VIEWS", 4)
    views = TaskViews(backbone)
    for i in range(20):
        assert views.of(*task_of(f"t{i}")).version.task == f"t{i}"
        assert len(views._views) <= 4

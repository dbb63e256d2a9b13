"""Settings and the records that threads share."""

from __future__ import annotations

from typing import Any

import pytest
from manyhats.errors import InvalidRequest, NotFound
from manyhats.registry.records import AdapterInfo, Target, Task, TaskSettings, Version, parse_settings
from pydantic import ValidationError

INFO = AdapterInfo("lora", "classify", 8, 1, 10, None, None, None, {"template": "files: {text}", "max_tokens": 9})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", ["a", "a"]),
        ("labels", ["x" * 1001]),
        ("labels", [str(i) for i in range(100_001)]),
        ("labels", [1]),
        ("template", "no place for it"),
        ("template", "{text}" + "x" * 10_000),
        ("max_tokens", 0),
        ("overflow", "ignore"),
        ("pooling", "max"),
        ("priority", 11),
        ("priority", -11),
        ("nonsense", 1),
    ],
)
def test_values_over_the_limits_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_settings({field: value})
    with pytest.raises(ValidationError):
        TaskSettings.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", ["x" * 1000, "y"]),
        ("template", "{text}" + "x" * 9_994),
        ("max_tokens", 1),
        ("priority", -10),
        ("priority", 10),
        ("pooling", "none"),
    ],
)
def test_values_at_the_limits_are_taken(field: str, value: Any) -> None:
    assert getattr(parse_settings({field: value}), field) == value


def test_the_error_names_the_field() -> None:
    with pytest.raises(InvalidRequest, match="priority") as caught:
        parse_settings({"priority": 99})
    assert caught.value.param == "priority"


def test_a_missing_version_names_those_that_exist() -> None:
    task = Task("spam", 0.0, TaskSettings(), tuple(Version("spam", n, "0", INFO, 0.0) for n in (1, 4)))
    assert task.version(4).ref == "spam@4"
    with pytest.raises(NotFound, match="1, 4"):
        task.version(2)


def test_stable_of_a_split_is_the_largest_share() -> None:
    versions = tuple(Version("spam", n, "0", INFO, 0.0) for n in (1, 2))
    task = Task("spam", 0.0, TaskSettings(), versions, {"stable": (Target(1, 10), Target(2, 90))})
    assert task.stable == versions[1]
    assert Task("spam", 0.0, TaskSettings(), versions).stable is None


def test_settings_of_the_task_win_over_those_of_the_files_for_given_keys_only() -> None:
    version = Version("spam", 1, "0", INFO, 0.0)
    settings = Task("spam", 0.0, TaskSettings(max_tokens=5), (version,)).settings_for(version)
    assert (settings.max_tokens, settings.template) == (5, "files: {text}")

"""Settings and the records that threads share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
        ("pooling", "median"),
        ("pooling", []),
        ("pooling", ["mean", "none"]),
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


@pytest.mark.parametrize(
    ("own", "brought", "outputs", "expected"),
    [
        (["x", "y"], ["a", "b"], 2, ["x", "y"]),
        (["x", "y"], ["a", "b", "c"], 3, ["a", "b", "c"]),
        (["x", "y"], None, 3, None),
        (["x", "y"], None, None, ["x", "y"]),
        (None, ["a", "b"], 2, ["a", "b"]),
    ],
)
def test_labels_of_the_task_hold_only_where_they_fit_the_head(
    own: list[str] | None, brought: list[str] | None, outputs: int | None, expected: list[str] | None
) -> None:
    info = replace(INFO, settings={"labels": brought} if brought else {}, num_labels=outputs)
    version = Version("spam", 1, "0", info, 0.0)
    settings = Task("spam", 0.0, TaskSettings(labels=own), (version,)).settings_for(version)
    assert settings.labels == expected


def test_what_is_set_to_none_is_left_to_the_files_and_what_files_bring_beside_settings_is_left_out() -> None:
    info = replace(INFO, settings={"max_tokens": 9, "pooling": "cls", "normalize": True, "unknown": 1})
    version = Version("spam", 1, "0", info, 0.0)
    own = TaskSettings(max_tokens=None, normalize=False, defaults={"top_k": 2})
    settings = Task("spam", 0.0, own, (version,)).settings_for(version)
    assert (settings.max_tokens, settings.pooling, settings.normalize) == (9, "cls", False)
    assert (settings.defaults, settings.priority, settings.pinned) == ({"top_k": 2}, 0, False)


def test_settings_and_records_do_not_change() -> None:
    with pytest.raises(ValidationError):
        TaskSettings().priority = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Target(1).version = 2  # type: ignore[misc]


@given(
    st.dictionaries(st.sampled_from([*TaskSettings.model_fields, "x"]), st.one_of(st.none(), st.text(), st.integers()))
)
def test_any_mapping_gives_settings_or_an_error_that_names_a_field(values: dict[str, Any]) -> None:
    try:
        settings = parse_settings(values)
    except InvalidRequest as error:
        param = error.param or ""
    else:
        assert parse_settings(settings.model_dump()) == settings
        return
    assert param.split(".")[0] in {*values, "settings"}

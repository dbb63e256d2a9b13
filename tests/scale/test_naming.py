"""Where a request names its task, and what changes something: of every route that there is."""

from __future__ import annotations

import json
import re

import pytest
from manyhats.api.app import _with_routes
from manyhats.api.auth import all_routes, required_scopes, route_names
from manyhats.scale.naming import LOOKED_INTO, changes, task_in_body, task_in_path

# Routes with a task in their path that has another name there than `task`, by how the path begins.
MODEL = "{model:path}"


def routes() -> list[tuple[str, str, frozenset[str]]]:
    """Method, path and scopes of every route."""
    found = []
    for route in all_routes(_with_routes(None).routes):
        for name in route_names(route):
            method, space, path = name.partition(" ")
            if space:
                found.append((method, path, required_scopes(route) or frozenset()))
    return found


def test_every_route_with_a_task_in_its_path_is_known() -> None:
    for _, path, _ in routes():
        asked = path.replace(MODEL, "{task}").replace("{task}", "spam@canary")
        asked = re.sub(r"{\w+}", "3", asked)
        assert task_in_path(asked) == ("spam" if "spam" in asked else None), path


def test_every_route_that_changes_tasks_is_known() -> None:
    """Those are asked once, whatever happens. Loading and unloading change what one replica holds."""
    for method, path, scopes in routes():
        writes = method != "GET" and scopes <= {"upload", "admin"} and bool(scopes)
        alone = path.endswith(("/load", "/unload", "/lift"))
        assert changes(method, path.replace("{task}", "spam")) == (writes and not alone), (method, path)


@pytest.mark.parametrize(("body", "task"), [
    ({"model": "spam", "input": "a"}, "spam"),
    ({"model": "MiniLM:spam@canary"}, "spam"),
    ({"model": "base"}, "base"),
    ({"inputs": "a", "parameters": {"adapter_id": "spam@3"}}, "spam"),
    ({"lora_name": "spam"}, "spam"),
    ({"tasks": ["spam", "topic"], "inputs": ["a"]}, "spam"),
    ({"requests": [{"task": "spam", "inputs": ["a"]}]}, "spam"),
    ({"inputs": "a"}, None),
    ({"model": 3, "tasks": [], "requests": [1]}, None),
    ({"model": ""}, None),
    ([1], None),
])  # fmt: skip
def test_names_in_bodies(body: object, task: str | None) -> None:
    assert task_in_body(json.dumps(body).encode()) == task


def test_what_is_no_json_or_large_names_nothing() -> None:
    assert task_in_body(b"") is None
    assert task_in_body(b"{") is None
    assert task_in_body(b"\xff") is None
    large = {"model": "spam", "input": "a" * LOOKED_INTO}
    assert task_in_body(json.dumps(large).encode()) is None


def test_a_path_names_its_task_without_version() -> None:
    assert task_in_path("/v1/tasks/spam@canary/predict") == "spam"
    assert task_in_path("/v1/tasks") is None
    assert task_in_path("/v2/models/spam/versions/3/infer") == "spam"
    assert task_in_path("/v1/models/MiniLM:spam") == "spam"

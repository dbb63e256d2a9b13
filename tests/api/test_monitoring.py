"""What the page shows of a running server."""

from __future__ import annotations

from typing import Any

import pytest
from manyhats.api import monitoring
from manyhats.api.app import openapi_schema

from tests.api.live import Live, assert_error
from tests.api.test_answers import assert_answers

BATCHES, TRAFFIC, OVERVIEW = "/v1/batches", "/v1/traffic", "/v1/overview"


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    return openapi_schema()["paths"]


def test_the_last_batches_name_their_tasks(live: Live, paths):
    one, other = live.add("one"), live.add("other", "mask")
    live.client.post("/v1/predict", json={"tasks": [one, other], "inputs": ["w1", "w2 w3"]})
    live.wait_idle()
    body = assert_answers(paths, "GET /v1/batches", monitoring.BatchList, live.client.get(f"{BATCHES}?limit=1"))
    (batch,) = body["data"]
    assert batch["sequences"] == 4
    assert batch["task_count"] == 2
    assert batch["methods"] == ["lora", "mask"]
    assert batch["tasks"] == [{"task": one, "sequences": 2}, {"task": other, "sequences": 2}]
    ids = [batch["id"] for batch in live.client.get(BATCHES).json()["data"]]
    assert ids == sorted(ids, reverse=True)
    assert_error(live.client.get(f"{BATCHES}?limit=0"), 400, "limit")
    assert_error(live.client.get(f"{BATCHES}?limit=257"), 400, "limit")


def test_traffic_of_chosen_tasks_and_of_the_busiest(live: Live, paths):
    one, other, idle = live.add("one"), live.add("other"), live.add("idle")
    for task in (one, one, other):
        live.outputs(task, "w1")
    live.ask(other, "w1 " * 1000)  # too long
    live.wait_idle()
    asked = live.client.get(TRAFFIC, params={"task": [other, one, idle, "nobody", one]})
    body = assert_answers(paths, "GET /v1/traffic", monitoring.TrafficBody, asked)
    assert [series["task"] for series in body["data"]] == [other, one]
    refused, answered = body["data"]
    assert sum(answered["requests"]) == 2
    assert sum(answered["failed"]) == 0
    assert sum(refused["requests"]) == 2
    assert sum(refused["failed"]) == 1
    for mean, longest, count in zip(answered["mean_ms"], answered["max_ms"], answered["requests"], strict=True):
        assert (mean is None and longest is None) if not count else 0 < mean <= longest
    assert sum(body["total"]["requests"]) >= 4
    busiest = live.client.get(f"{TRAFFIC}?limit=200").json()["data"]
    assert {one, other} <= {series["task"] for series in busiest}
    assert_error(live.client.get(f"{TRAFFIC}?limit=201"), 400, "limit")
    assert_error(live.client.get(TRAFFIC, params={"task": ["x"] * 201}), 400, "task")


def test_the_overview_counts(live: Live, paths):
    body = assert_answers(paths, "GET /v1/overview", monitoring.OverviewBody, live.client.get(OVERVIEW))
    live.add()
    after = live.client.get(OVERVIEW).json()
    assert after["tasks"] == body["tasks"] + 1
    assert after["slots"]["adapters"] == body["slots"]["adapters"] + 1
    assert 0 < after["slots"]["bytes"] < after["slots"]["bytes_limit"]
    assert after["backbone"] == live.backbone.name


def test_keys_and_the_names_of_others(start):
    with start(api_keys="ask", admin_keys="admin") as live:
        for path in (BATCHES, TRAFFIC, OVERVIEW):
            assert_error(live.client.get(path), 401, "key")
            for key in ("ask", "admin"):
                assert live.client.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("path", [BATCHES, TRAFFIC])
def test_where_nobody_may_see_names_there_is_nothing(start, path):
    with start(metrics_names="nobody") as live:
        assert_error(live.client.get(path), 403, "metrics_names")
        assert live.client.get(OVERVIEW).status_code == 200


def test_tasks_are_found_by_a_part_of_their_name(live: Live):
    names = [live.add("Needle"), live.add("needle"), live.add("hay")]
    found = live.client.get("/v1/tasks", params={"search": "NEEDLE", "limit": 1000}).json()
    assert {task["name"] for task in found["data"]} == set(names[:2])
    first = live.client.get("/v1/tasks", params={"search": "needle", "limit": 1}).json()
    assert first["next_page_token"]
    following = {"search": "needle", "limit": 1, "page_token": first["next_page_token"]}
    second = live.client.get("/v1/tasks", params=following).json()
    assert second["next_page_token"] is None
    assert {first["data"][0]["name"], second["data"][0]["name"]} == set(names[:2])
    assert live.client.get("/v1/tasks", params={"search": "%"}).json()["data"] == []
    assert_error(live.client.get("/v1/tasks", params={"search": "x" * 129}), 400, "search")

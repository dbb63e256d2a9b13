"""The list of models, a page at a time."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.live import Live, assert_error


@pytest.fixture(scope="module")
def names(live: Live) -> list[str]:
    """All tasks of the server, by name."""
    for _ in range(4):
        live.add("listed", kind="embed")
    return [task["name"] for task in live.client.get("/v1/tasks?limit=1000").json()["data"]]


def page(live: Live, **query: Any) -> Any:
    answer = live.client.get("/v1/models", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_without_parameters_it_is_one_page(live: Live, names: list[str]) -> None:
    found = page(live)
    assert [model["id"] for model in found["data"]] == [live.backbone.name, *names]
    assert (found["object"], found["has_more"]) == ("list", False)
    assert (found["first_id"], found["last_id"]) == (live.backbone.name, names[-1])


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_pages_hold_every_model_once_in_order(live: Live, names: list[str], limit: int) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        found = page(live, **query)
        ids = [model["id"] for model in found["data"]]
        assert len(ids) <= limit
        assert (found["first_id"], found["last_id"]) == (ids[0], ids[-1])
        seen += ids
        if not found["has_more"]:
            break
        query["after"] = found["last_id"]
    assert seen == [live.backbone.name, *names]
    empty = page(live, after=seen[-1])
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def test_after_the_backbone_by_either_name(live: Live, names: list[str]) -> None:
    for bare in ("base", live.backbone.name):
        assert [model["id"] for model in page(live, after=bare)["data"]] == names
    assert names[0] not in [model["id"] for model in page(live, after=names[0])["data"]]
    # A task that was deleted has still its place.
    assert [model["id"] for model in page(live, after=f"{names[1]}-gone")["data"]] == [
        name for name in names if name > f"{names[1]}-gone"
    ]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after": "a/b"}, "after is `a/b`"),
    ],
)
def test_what_is_no_page_is_refused(live: Live, query: dict[str, Any], said: str) -> None:
    assert_error(live.client.get("/v1/models", params=query), 400, said)


def test_the_client_lists_a_page(live: Live, names: list[str]) -> None:
    with openai.OpenAI(base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [live.backbone.name, *names]
        found = client.models.list(extra_query={"limit": 2, "after": names[0]})
        assert [model.id for model in found.data] == names[1:3]

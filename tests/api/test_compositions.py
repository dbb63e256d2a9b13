"""Adapters made of stored ones and merged for a question, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone

from tests.api.live import Live, assert_error, close, fresh, serving


def sha(live: Live, task: str) -> str:
    return str(live.client.get(f"/v1/tasks/{task}").json()["versions"][-1]["sha256"])


def compose(live: Live, **description: Any) -> Any:
    task = fresh("made")
    file = ("manyhats.json", json.dumps(description).encode(), "application/json")
    return task, live.client.post(f"/v1/tasks/{task}/versions", files=[("files", file)])


def test_members_outlive_their_tasks(bert: Backbone, tmp_path: Path) -> None:
    """A stack keeps what it is made of, also over a restart; without it the members go."""
    with serving(bert, tmp_path) as live:
        one, two = live.add(method="bottleneck", kind="embed"), live.add(method="bottleneck", kind="embed")
        task, answer = compose(live, format="manyhats-stack/1", members=[sha(live, one), sha(live, two)])
        assert answer.status_code == 201, answer.text
        assert answer.json()["method"] == "bottleneck"
        before = live.outputs(task)
        for member in (one, two):
            assert live.client.delete(f"/v1/tasks/{member}").status_code in (200, 204)
        assert live.client.post(f"/v1/tasks/{task}/unload").status_code == 200
        assert close(live.outputs(task), before)
    with serving(bert, tmp_path) as live:
        assert close(live.outputs(task), before)
        blobs = tmp_path / ".manyhats" / "blobs"
        assert len(list(blobs.iterdir())) == 3
        live.wait_idle()
        live.client.delete(f"/v1/tasks/{task}")
        assert not list(blobs.iterdir())


def test_an_unknown_member_is_named(live: Live) -> None:
    _, answer = compose(live, format="manyhats-stack/1", members=["0" * 64, "1" * 64])
    assert_error(answer, 400, "0{64}")


def test_merging_for_a_question(live: Live) -> None:
    one, two = live.add(kind="embed"), live.add(kind="embed")
    mask = live.add(method="mask", kind="embed")
    alone = live.outputs(one)
    first = {"ids": [one, two], "weights": [1.0, 0.0]}
    assert close(live.outputs("base", merged_adapters=first), alone)
    both = live.outputs("base", merged_adapters={"ids": [one, two], "merge_strategy": "ties", "density": 0.5})
    assert not close(both, alone)
    assert close(
        live.outputs("base", merged_adapters={"ids": [one, two], "merge_strategy": "ties", "density": 0.5}), both
    )
    assert_error(live.ask("base", merged_adapters={"ids": [one, "nobody"]}), 404, "nobody")
    assert_error(live.ask("base", merged_adapters={"ids": [one, mask]}), 400, "cannot be merged")
    assert_error(live.ask("base", merged_adapters={"ids": [one]}), 400, "ids")
    assert_error(live.ask("base", merged_adapters={"ids": [one, two], "weights": [1]}), 400, "1 weights")
    assert_error(live.ask("base", merged_adapters={"ids": [one, two], "merge_strategy": "slerp"}), 400, "linear")
    live.wait_idle()
    assert live.pins() == 0


@pytest.mark.parametrize("kind", ["classify", "tokens"])
def test_merging_under_a_tasks_head(live: Live, kind: Any) -> None:
    one, two = live.add(kind=kind), live.add(kind=kind)
    merged = {"ids": [one, two], "weights": [1.0, 0.0]}
    assert close(live.outputs(one, merged_adapters=merged), live.outputs(one))

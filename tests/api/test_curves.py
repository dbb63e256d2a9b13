"""A version's training curves, which its card holds: in the answers to the upload and to who asks for the version."""

from __future__ import annotations

import json

from tests.api.live import Live, adapter_files, fresh
from tests.core.test_history import GOOD, card


def send(live: Live, task: str, text: str) -> dict:
    files = adapter_files(live.backbone) | {"README.md": text.encode()}
    answer = live.client.post(f"/v1/tasks/{task}/versions", files=[("files", item) for item in files.items()])
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_the_curves_are_in_both_answers(live: Live) -> None:
    task = fresh()
    assert send(live, task, card(json.dumps(GOOD)))["curves"] == GOOD
    assert live.client.get(f"/v1/tasks/{task}/versions/1").json()["curves"] == GOOD
    (version,) = live.client.get(f"/v1/tasks/{task}").json()["versions"]  # a task may have very many
    assert "curves" not in version


def test_a_card_without_curves(live: Live) -> None:
    task = fresh()
    assert not {"curves", "warnings"} & send(live, task, "# A card\n").keys()
    assert "curves" not in live.client.get(f"/v1/tasks/{task}/versions/1").json()


def test_curves_that_cannot_be_read_are_said_and_left_out(live: Live) -> None:
    task = fresh()
    uploaded = send(live, task, card(json.dumps(GOOD | {"steps": [1] * 1000})))
    assert "curves" not in uploaded
    (warning,) = uploaded["warnings"]
    assert warning.startswith("the card's training_history cannot be read: ")
    shown = live.client.get(f"/v1/tasks/{task}/versions/1").json()
    assert shown["warnings"] == [warning]
    assert "curves" not in shown

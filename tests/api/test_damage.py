"""What is damaged in the store, as callers and operators see it: 5xx for its own task, nothing for the others."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.api.live import Live, adapter_files, assert_error, close
from tests.api.test_operations import figures


def blob(live: Live, task: str) -> Path:
    sha = live.client.get(f"/v1/tasks/{task}").json()["versions"][0]["sha256"]
    return live.hidden / "blobs" / str(sha)


def changed(folder: Path) -> None:
    """Other numbers, and still a safetensors file that fits."""
    path = min(folder.glob("*.safetensors"))
    data = path.read_bytes()
    path.write_bytes(data[:-400] + bytes(400))


def cut_short(folder: Path) -> None:
    path = min(folder.glob("*.safetensors"))
    os.truncate(path, path.stat().st_size - 500)


def file_gone(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


@pytest.mark.parametrize("damage", [changed, cut_short, file_gone, shutil.rmtree])
def test_damaged_files_answer_500_until_the_same_are_uploaded(start, damage):
    with start() as live:
        files = adapter_files(live.backbone)
        live.upload("spam", files)
        other = live.add("other")
        live.wait_loaded()
        before, others = live.outputs("spam"), live.outputs(other)
        damage(blob(live, "spam"))
        assert close(live.outputs("spam"), before)  # it is in its slot, with its own bytes
        live.client.post("/v1/tasks/spam/unload")
        for _ in range(2):
            error = assert_error(live.ask("spam"), 500, "spam@1", "damaged")
            assert error["type"] == "DamagedStoreError"
        assert_error(live.client.post("/v1/tasks/spam/load"), 500, "damaged")
        assert_error(live.client.get("/v1/tasks/spam/versions/1/download"), 500, "damaged")
        assert close(live.outputs(other), others)
        shown = live.client.get("/v1/tasks/spam").json()
        assert shown["quarantined"] == shown["versions"][0]["quarantined"]
        assert shown["damaged"] is shown["versions"][0]["damaged"] is True
        assert live.client.get("/v1/tasks/spam/versions/1").json()["quarantined"] == shown["quarantined"]
        listed = {row["name"]: row for row in live.client.get("/v1/tasks").json()["data"]}
        assert listed["spam"]["quarantined"] == shown["quarantined"]
        assert "quarantined" not in listed[other]
        assert figures(live)["manyhats_quarantined_versions"] == 1
        assert figures(live)["manyhats_quarantined|task=spam|version=1"] == 1
        answer = live.upload("spam", files)
        assert answer.status_code == 200
        assert answer.json()["version"] == 1
        assert close(live.outputs("spam"), before)
        assert "quarantined" not in json.dumps(live.client.get("/v1/tasks/spam").json())
        assert figures(live)["manyhats_quarantined_versions"] == 0
        live.wait_idle()


def test_a_member_that_is_damaged_fails_what_is_made_of_it(start):
    with start() as live:
        names = [live.add(method="bottleneck", kind="embed") for _ in range(2)]
        shas = [live.client.get(f"/v1/tasks/{name}").json()["versions"][0]["sha256"] for name in names]
        description = json.dumps({"format": "manyhats-stack/1", "members": shas}).encode()
        assert live.upload("made", {"manyhats.json": description}).status_code == 201
        live.wait_loaded()
        changed(blob(live, names[0]))
        live.client.post("/v1/tasks/made/unload")
        assert_error(live.ask("made"), 500, names[0])
        assert "its member" in live.client.get("/v1/tasks/made").json()["quarantined"]
        live.client.post(f"/v1/tasks/{names[0]}/unload")
        merged = {"ids": names}
        assert_error(live.ask("base", merged_adapters=merged), 500, names[0])
        again = json.dumps({"format": "manyhats-stack/1", "members": shas[::-1]}).encode()
        assert_error(live.upload("again", {"manyhats.json": again}), 500, names[0])


def test_a_start_with_damage_is_ready_and_says_so(start, tmp_path, caplog):
    store = tmp_path / "kept"
    with start(store) as live:
        gone, other = live.add("gone"), live.add("other")
        folder = blob(live, gone)
    shutil.rmtree(folder)
    with start(store) as live:
        assert live.client.get("/readyz").status_code == 200
        assert live.ask(other).status_code == 200
        assert "gone" in live.client.get(f"/v1/tasks/{gone}").json()["quarantined"]
        assert f"{gone}@1" in caplog.text
        assert_error(live.ask(gone), 500)
        assert_error(live.client.get(f"/v1/tasks/{gone}/versions/9"), 404)
        assert live.client.delete(f"/v1/tasks/{gone}").status_code == 204


def test_an_alias_to_no_version_holds_up_nobody(start, tmp_path, caplog):
    store = tmp_path / "kept"
    with start(store) as live:
        lost, other = live.add("lost"), live.add("other")
    with sqlite3.connect(store / ".manyhats" / "registry.sqlite3") as database:
        database.execute("UPDATE aliases SET targets = '[[99, 1.0]]' WHERE task = ?", (lost,))
    database.close()
    with start(store) as live:
        assert live.client.get("/readyz").status_code == 200
        assert "points at version 99" in caplog.text
        listed = {row["name"]: row for row in live.client.get("/v1/tasks").json()["data"]}
        assert "version 99" in listed[lost]["quarantined"]
        assert listed[lost]["damaged"] is True
        assert "quarantined" not in listed[other]
        assert "version 99" in live.client.get(f"/v1/tasks/{lost}").json()["quarantined"]
        assert assert_error(live.ask(lost), 500, "version 99")["type"] == "DamagedStoreError"
        assert_error(live.client.post(f"/v1/tasks/{lost}/load"), 500)
        assert live.ask(f"{lost}@1").status_code == live.ask(other).status_code == 200
        assert live.client.put(f"/v1/tasks/{lost}/aliases/stable", json={"version": 1}).status_code == 200
        assert live.ask(lost).status_code == 200
        assert "quarantined" not in live.client.get(f"/v1/tasks/{lost}").json()

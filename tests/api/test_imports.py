"""Folders in the store, as `GET /v1/imports` lists them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.api.live import Live, adapter_files, assert_error, serving
from tests.waiting import wait_until


def copied(folder: Path, live_backbone, **extra: bytes) -> None:
    folder.mkdir(parents=True)
    for name, data in (adapter_files(live_backbone) | extra).items():
        (folder / name).write_bytes(data)


def test_folders_are_listed_with_what_became_of_them(bert, tmp_path):
    store = tmp_path / "store"
    elsewhere = tmp_path / "elsewhere"
    copied(elsewhere, bert)
    copied(store / "good", bert, **{"optimizer.pt": b"x"})
    copied(store / "damaged", bert, **{"adapter_config.json": b"{"})
    copied(store / "no name", bert)
    (store / "linked").symlink_to(elsewhere)
    (store / "nowhere").symlink_to("missing")
    with serving(bert, store) as live:
        body = live.client.get("/v1/imports").json()
        assert body["next_page_token"] is None
        rows = {row["folder"]: row for row in body["data"]}
        assert list(rows) == sorted(["good", "damaged", "no name", "linked", "nowhere"])
        assert rows["linked"] == {
            "folder": "linked", "status": "taken_in", "task": "linked", "version": 1, "reason": None
        }  # fmt: skip
        assert rows["good"]["status"] == "taken_in"
        assert "optimizer.pt" in rows["good"]["reason"]
        for name, pattern in (("damaged", "adapter_config.json"), ("no name", "name"), ("nowhere", "nowhere")):
            assert rows[name]["status"] == "refused"
            assert pattern in rows[name]["reason"]
            assert rows[name]["task"] is None
        assert live.ask("linked").status_code == 200
        first = live.client.get("/v1/imports", params={"limit": 2}).json()
        assert [row["folder"] for row in first["data"]] == ["damaged", "good"]
        rest = live.client.get("/v1/imports", params={"page_token": first["next_page_token"]}).json()
        assert [row["folder"] for row in rest["data"]] == ["linked", "no name", "nowhere"]
        shutil.rmtree(store / "damaged")
        wait_until(
            lambda: "damaged" not in [row["folder"] for row in live.client.get("/v1/imports").json()["data"]],
            "the folder is no longer listed",
        )


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "page_token=%FF", "page_token=!!"])
def test_a_bad_page_is_refused(live: Live, query):
    assert_error(live.client.get(f"/v1/imports?{query}"), 400)

"""Adapters by their paths: from allowed folders alone, checked as an upload is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.live import Files, Live, adapter_files, assert_error, close, fresh, serving


def written(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def live(served, allowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that may read one folder."""
    store = tmp_path_factory.mktemp("store")
    with serving(served, store, adapter_folders=(allowed,), max_files=8, max_upload=1 << 20) as running:
        yield running


def load(live: Live, name: Any, path: Any, **body: Any) -> httpx.Response:
    given = {"lora_name": name, "lora_path": str(path) if isinstance(path, Path) else path}
    return live.client.post("/v1/load_lora_adapter", json=given | body)


def unload(live: Live, name: Any) -> httpx.Response:
    return live.client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def assert_wrong(answer: httpx.Response, message: str) -> None:
    """vLLM's own type of error for what a request says."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, 400, "InvalidUserInput")
    assert message in error["message"]


@pytest.mark.parametrize("method", ["lora", "bottleneck", "mask"])
def test_loaded_it_answers_as_if_it_were_uploaded(live: Live, allowed: Path, method: str) -> None:
    files, name, uploaded = adapter_files(live.backbone, method), fresh(), fresh()
    answer = load(live, name, written(allowed / name, files))
    assert answer.status_code == 200
    assert answer.text == f"Success: LoRA adapter '{name}' added successfully."
    assert answer.headers["content-type"].startswith("text/plain")
    assert live.upload(uploaded, files).status_code == 201
    assert close(live.outputs(name), live.outputs(uploaded))
    assert name in [model["id"] for model in live.client.get("/v1/models").json()["data"]]
    answer = unload(live, name)
    assert (answer.status_code, answer.text) == (200, f"Success: LoRA adapter '{name}' removed successfully.")
    assert_error(live.ask(name), 404)
    assert_error(unload(live, name), 404, f"The lora adapter '{name}' cannot be found")


def test_in_place_it_is_a_new_version(live: Live, allowed: Path) -> None:
    name = fresh()
    first, second = (written(allowed / name / stem, adapter_files(live.backbone)) for stem in ("one", "two"))
    assert load(live, name, first).status_code == 200
    assert_wrong(load(live, name, second), "has already been loaded")
    before = live.outputs(name)
    assert load(live, name, second, load_inplace=True).status_code == 200
    assert live.client.get(f"/v1/tasks/{name}").json()["version"] == 2
    assert not close(live.outputs(name), before)
    assert load(live, name, second, load_inplace=True).status_code == 200
    assert len(live.client.get(f"/v1/tasks/{name}").json()["versions"]) == 2


@pytest.mark.parametrize("body", [{}, {"lora_name": "x"}, {"lora_path": "/x"}, {"lora_name": "", "lora_path": ""}])
def test_both_fields_are_needed(live: Live, body: dict[str, Any]) -> None:
    answer = live.client.post("/v1/load_lora_adapter", json=body)
    assert_wrong(answer, "Both 'lora_name' and 'lora_path'")
    assert_wrong(unload(live, None), "'lora_name' needs")


def test_nothing_outside_is_read(live: Live, allowed: Path, tmp_path: Path) -> None:
    files = adapter_files(live.backbone)
    outside = written(tmp_path / "outside", files)
    sibling = written(allowed.parent / f"{allowed.name}-sibling", files)
    (allowed / "way-out").symlink_to(outside)
    (allowed / "folder-out").symlink_to(tmp_path)
    linked = written(allowed / "linked-file", files)
    weights = next(path for path in linked.iterdir() if path.suffix == ".safetensors")
    weights.unlink()
    weights.symlink_to(outside / weights.name)
    refused = [
        outside, sibling, allowed / ".." / sibling.name, allowed / "way-out", allowed / "folder-out" / "outside",
        linked, "/etc", "relative", "", ".", f"{allowed}\0/x", f"{allowed}/../../etc", live.hidden / "blobs", "~",
    ]  # fmt: skip
    for path in refused:
        answer = load(live, fresh(), path)
        assert answer.status_code in (400, 403), (path, answer.text)
        if path not in ("",):
            assert_error(answer, 403, "folders that may be read")
    (allowed / "inside").symlink_to(written(allowed / "deep" / "one", files))
    assert load(live, fresh(), allowed / "inside").status_code == 200
    assert load(live, fresh(), f"{allowed}/deep/../deep/./one/").status_code == 200
    assert not live.staged


def test_what_is_no_adapter_is_refused(live: Live, allowed: Path) -> None:
    missing = assert_error(load(live, fresh(), allowed / "nothing"), 404, "no adapter was found")
    assert missing["param"] == "lora_path"
    (allowed / "empty").mkdir()
    assert_error(load(live, fresh(), allowed / "empty"), 404, "no adapter was found")
    assert_wrong(load(live, fresh(), allowed), "and none of its own")
    files = adapter_files(live.backbone)
    pickled = written(allowed / "pickled", {**files, "adapter_model.bin": b"x"} | {})
    (pickled / "adapter_model.safetensors").unlink()
    assert load(live, fresh(), pickled).status_code in (400, 415)
    wide = written(allowed / "wide", files | {"adapter_model.safetensors": b"\0" * (2 << 20)})
    assert_error(load(live, fresh(), wide), 413, "bytes")
    damaged = written(allowed / "damaged", files | {"adapter_config.json": b"{"})
    assert load(live, fresh(), damaged).status_code == 400
    good = written(allowed / "good", files)
    for name, status in (("base", 409), ("a b", 400), ("x/y", 400)):
        assert load(live, name, good).status_code == status
    assert_wrong(load(live, fresh(), good, is_3d_lora_weight=True), "is_3d_lora_weight")
    assert not live.staged


def test_nothing_is_allowed_by_default(start, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with start() as live:
        written(folder, adapter_files(live.backbone))
        for path in (folder, "/", ".", ""):
            answer = load(live, "x", path)
            assert answer.status_code == (403 if path else 400)
        assert_error(load(live, "x", folder), 403, "adapter_folders")


def test_it_needs_an_admins_key(start, tmp_path: Path) -> None:
    with start(api_keys="asker", admin_keys="admin", adapter_folders=(tmp_path,)) as live:
        for key, status in (("", 401), ("wrong", 401), ("asker", 403), ("admin", 404)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            for route in ("load", "unload"):
                body = {"lora_name": "x", "lora_path": str(tmp_path / "x")}
                answer = live.client.post(f"/v1/{route}_lora_adapter", json=body, headers=headers)
                assert_error(answer, status)

"""Versions whose files the server fetches itself, from a hub, an object store or a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response
from huggingface_hub import constants
from manyhats.registry.rows import read_tasks
from manyhats.registry.sources.s3 import open_bucket

from tests.api.live import Files, Live, adapter_files, assert_error, at_once, close, edited, fresh, serving
from tests.hub import Hub, serving_hub
from tests.s3 import make_bucket, serving_s3
from tests.waiting import PATIENCE, wait_until

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BUCKET = "adapters"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A running hub, which is the one that this process asks."""
    with serving_hub() as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(autouse=True)
def honest(hub: Hub) -> None:
    """Each test begins with a hub that misbehaves in nothing."""
    hub.fault = lambda request: None
    hub.stated = {}
    hub.wait = None
    hub.asked.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def live(served, hub: Hub, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that may read from some places."""
    allowed = ("hub:org/*", f"s3://{BUCKET}/team/*")
    limits = {"max_files": 8, "max_upload": 1 << 20, "max_body": 1 << 16}
    with serving(
        served, tmp_path_factory.mktemp("store"), allowed_sources=allowed, adapter_folders=(folder,), **limits
    ) as running:
        yield running


def post(
    live: Live, name: str, source: dict[str, Any], client: httpx.Client | None = None, **body: Any
) -> httpx.Response:
    return (client or live.client).post(f"/v1/tasks/{name}/versions", json={"source": source} | body)


def publish(hub: Hub, files: Files) -> str:
    """A repository with these files, by its name."""
    name = f"org/{fresh('repository')}"
    hub.add(name, files)
    return name


def assert_nothing(live: Live, task: str) -> None:
    """A task has not come to be, and nothing is left of the try."""
    assert live.client.get(f"/v1/tasks/{task}").status_code == 404
    wait_until(lambda: not live.staged, "nothing is staged")
    assert live.runtime.uploads == 0


@pytest.mark.parametrize("method", ["lora", "bottleneck", "mask"])
def test_from_a_hub_it_answers_as_if_it_were_uploaded(live: Live, hub: Hub, method: str) -> None:
    files, task, uploaded = adapter_files(live.backbone, method), fresh(), fresh()
    name = publish(hub, files | {"trainer_state.json": b"{}"})
    answer = post(live, task, {"hub": name})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/tasks/{task}/versions/1"
    made = live.upload(uploaded, files).json()
    assert answer.json()["sha256"] == made["sha256"]
    assert "trainer_state.json" in answer.json()["warnings"][0]
    assert close(live.outputs(task), live.outputs(uploaded))
    assert not live.staged


def test_the_source_is_recorded_with_the_version_and_in_the_audit_log(live: Live, hub: Hub) -> None:
    files, task = adapter_files(live.backbone), fresh()
    name = publish(hub, files)
    commit = hub.repositories[name].refs["main"]
    given = post(live, task, {"hub": name, "revision": "main"}, task={"priority": 1}).json()["source"]
    assert (given["kind"], given["id"], given["revision"], given["commit"]) == ("hub", name, "main", commit)
    assert {file["name"]: file["bytes"] for file in given["files"]} == {n: len(d) for n, d in files.items()}
    assert live.client.get(f"/v1/tasks/{task}/versions/1").json()["source"] == given
    (entry,) = live.client.get("/v1/audit", params={"task": task}).json()["data"]
    assert (entry["action"], entry["detail"]) == ("upload", f"from hub:{name}@{commit}, priority")
    stored = live.runtime.registry.task(task).versions[0]
    with live.runtime.registry._database.read() as session:
        (read,) = [one for one in read_tasks(session) if one.name == task]
    assert read.versions[0].info == stored.info


def test_a_new_commit_is_a_new_version_and_the_same_files_are_not(live: Live, hub: Hub) -> None:
    task, name = fresh(), publish(hub, adapter_files(live.backbone))
    assert post(live, task, {"hub": name}).status_code == 201
    again = post(live, task, {"hub": name})
    assert (again.status_code, again.json()["version"]) == (200, 1)
    first = hub.repositories[name].refs["main"]
    hub.repositories[name].commit(adapter_files(live.backbone))
    assert post(live, task, {"hub": name}, alias="canary").json()["aliases"] == {"stable": 1, "canary": 2}
    assert post(live, task, {"hub": name, "revision": first}, activate=False).json()["version"] == 1


def test_from_an_object_store(live: Live) -> None:
    files, task = adapter_files(live.backbone), fresh()
    with serving_s3() as url:
        make_bucket(url, BUCKET)
        bucket = open_bucket(BUCKET, PATIENCE)
        for name, data in files.items():
            bucket.put(f"team/spam/{name}", data)
        answer = post(live, task, {"s3": f"s3://{BUCKET}/team/spam"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["source"]["id"] == f"s3://{BUCKET}/team/spam"
        assert_error(post(live, fresh(), {"s3": f"s3://{BUCKET}/other/spam"}), 403, "not among the sources")
        assert_error(post(live, fresh(), {"s3": f"s3://{BUCKET}/team/none"}), 404, "no object below")
    assert live.ask(task).status_code == 200


def test_a_path_of_vllms_names_a_source_too(live: Live, hub: Hub, folder: Path) -> None:
    """As `owner/name`, with a revision, as an address, or as a folder."""
    files = adapter_files(live.backbone)
    name = publish(hub, files)
    commit = hub.repositories[name].refs["main"]
    hub.repositories[name].commit(adapter_files(live.backbone))
    written = folder / fresh()
    written.mkdir()
    for file, data in files.items():
        (written / file).write_bytes(data)

    def load(path: str, **body: Any) -> tuple[str, httpx.Response]:
        task = fresh()
        return task, live.client.post("/v1/load_lora_adapter", json={"lora_name": task, "lora_path": path} | body)

    made = {path: load(path) for path in (name, f"{name}@{commit}", f"hf://{name}@{commit}", str(written))}
    for path, (task, answer) in made.items():
        assert answer.status_code == 200, (path, answer.text)
        source = live.client.get(f"/v1/tasks/{task}/versions/1").json()["source"]
        assert source["kind"] == ("folder" if path == str(written) else "hub")
        assert ("commit" in source and source["commit"] == commit) == ("@" in path)
    assert close(live.outputs(made[f"{name}@{commit}"][0]), live.outputs(made[str(written)][0]))
    for path, status, message in (
        ("other/name", 403, "not among the sources"),
        (f"{name}@{'0' * 40}", 404, "no such revision"),
        ("s3://elsewhere/x", 403, "not among the sources"),
    ):
        assert assert_error(load(path)[1], status, message)["param"] == "lora_path", path
    wrong = load("hf://../x")[1]
    assert wrong.status_code == 400
    assert "no repository of a hub" in wrong.json()["error"]["message"]
    assert not live.staged


def test_from_a_folder(live: Live, folder: Path, tmp_path: Path) -> None:
    files, task = adapter_files(live.backbone), fresh()
    for place in (folder / task, tmp_path / task):
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
    answer = post(live, task, {"folder": str(folder / task)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["source"]["id"] == str(folder / task)
    outside = fresh()
    error = assert_error(post(live, outside, {"folder": str(tmp_path / task)}), 403, "folders that may be read")
    assert error["param"] == "source.folder"
    (folder / "way-out").symlink_to(tmp_path / task)
    assert_error(post(live, outside, {"folder": str(folder / "way-out")}), 403, "a link leads")
    assert_error(post(live, outside, {"folder": f"{folder}/nothing"}), 404, "no adapter was found")
    assert_nothing(live, outside)


def test_the_digest_is_compared_before_the_files_are_read(live: Live, hub: Hub) -> None:
    files, task = adapter_files(live.backbone), fresh()
    name = publish(hub, files | {"optimizer.pt": b"x"})
    sha256 = live.upload(fresh(), files).json()["sha256"]
    error = assert_error(post(live, task, {"hub": name}, sha256="0" * 64), 400, sha256)
    assert error["param"] == "sha256"
    assert_nothing(live, task)
    assert post(live, task, {"hub": name}, sha256=sha256.upper()).status_code == 201
    assert_error(post(live, task, {"hub": name}, sha256="abc"), 400, "sha256")


def test_the_base_that_a_config_names_is_compared_and_never_fetched(live: Live, hub: Hub) -> None:
    other = edited(adapter_files(live.backbone), CONFIG, base_model_name_or_path="elsewhere/another-model")
    task = fresh()
    answer = post(live, task, {"hub": publish(hub, other)})
    assert answer.status_code == 201, answer.text
    assert "names the base 'elsewhere/another-model'" in " ".join(answer.json()["warnings"])
    assert not [path for path, _ in hub.asked if "another-model" in path]
    wrong = adapter_files(live.backbone) | {CONFIG: b"{}"}
    assert_error(post(live, fresh(), {"hub": publish(hub, wrong)}), 400)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "none of them"),
        ({"hub": "org/a", "s3": "s3://adapters/team/a"}, "hub and s3"),
        ({"s3": "s3://adapters/team/a", "revision": "main"}, "'s3' has none"),
        ({"url": "http://127.0.0.1/"}, "url"),
        ({"hub": "http://127.0.0.1:1/a"}, "owner/name"),
        ({"hub": "org/a", "revision": "../../x"}, "revision"),
        ({"s3": "http://127.0.0.1:1/a"}, "s3://bucket/prefix"),
        ({"hub": ""}, "hub"),
        ({"hub": 1}, "hub"),
    ],
)
def test_what_is_no_source(live: Live, hub: Hub, source: dict[str, Any], message: str) -> None:
    task = fresh()
    assert_error(post(live, task, source), 400, message)
    assert hub.asked == []
    assert_nothing(live, task)


def test_nothing_is_fetched_unless_the_operator_allows_it(start, hub: Hub) -> None:
    with start() as closed:
        for source in ({"hub": "org/a"}, {"s3": "s3://adapters/team/a"}, {"folder": "/tmp"}):
            assert_error(post(closed, fresh(), source), 403, "allowed")
        assert hub.asked == []


def test_it_needs_the_scope_of_uploads(start, hub: Hub) -> None:
    with start(allowed_sources=("hub:org/*",), api_keys=("ask-key",), admin_keys=("admin-key",)) as keyed:
        name, task = publish(hub, adapter_files(keyed.backbone)), fresh()
        for headers, status in (({}, 401), ({"Authorization": "Bearer ask-key"}, 403)):
            with keyed.new_client(headers=headers) as client:
                assert_error(post(keyed, task, {"hub": name}, client), status)
        assert hub.asked == []
        with keyed.new_client(headers={"Authorization": "Bearer admin-key"}) as client:
            assert post(keyed, task, {"hub": name}, client).status_code == 201


def test_faults_of_a_hub_leave_nothing_behind(live: Live, hub: Hub) -> None:
    files = adapter_files(live.backbone)
    name, task = publish(hub, files), fresh()
    hub.fault = lambda request: Response(status_code=500)
    assert assert_error(post(live, task, {"hub": name}), 502, "status 500")["type"] == "SourceFailedError"
    hub.fault = lambda request: Response(bytes(10)) if request.url.path.startswith("/lfs/") else None
    assert_error(post(live, task, {"hub": name}), 502, "that were listed")
    hub.fault = lambda request: None
    hub.stated[WEIGHTS] = 1 << 30
    assert_error(post(live, task, {"hub": name}), 413, "at most")
    hub.stated = {}
    assert_error(post(live, task, {"hub": name, "revision": "v9"}), 404, "no such revision")
    assert_error(post(live, task, {"hub": "org/none"}), 404, "no such repository")
    assert_nothing(live, task)
    assert post(live, task, {"hub": name}).status_code == 201


def test_a_body_that_names_a_source_is_as_small_as_any_json(live: Live, hub: Hub) -> None:
    body = json.dumps({"source": {"hub": "org/a"}, "task": {"template": "{text}" + " " * (1 << 17)}})
    headers = {"Content-Type": "application/json"}
    path = f"/v1/tasks/{fresh()}/versions"
    assert_error(live.client.post(path, content=body, headers=headers), 413, "larger than 65536 bytes")
    assert_error(live.client.post(path, content=iter([body.encode()]), headers=headers), 413, "larger than 65536")
    latin = {"Content-Type": "application/json; charset=latin-1"}
    assert_error(live.client.post(path, content=b"{}", headers=latin), 415, "charset")
    assert_error(live.client.post(path, content=b'{"source": {}, "source": {}}', headers=headers), 400, "twice")
    twice = [("Content-Type", "application/json"), ("Content-Type", "multipart/form-data; boundary=x")]
    assert live.client.post(path, content=b"{}", headers=twice).status_code in (400, 415)
    assert hub.asked == []


def test_one_download_of_a_caller_at_a_time_and_others_are_answered(live: Live, hub: Hub) -> None:
    files = adapter_files(live.backbone)
    name, task, other = publish(hub, files), fresh(), live.add()
    open_gate = threading.Event()
    hub.wait = open_gate.wait
    with live.new_client() as client:
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(post(live, task, {"hub": name}, client)))
        thread.start()
        try:
            wait_until(lambda: hub.asked, "the hub is asked")
            assert_error(post(live, fresh(), {"hub": name}), 429, "another download of this caller's")
            assert live.ask(other).status_code == 200
            assert live.upload(fresh(), files).status_code == 201
        finally:
            open_gate.set()
            thread.join(PATIENCE)
            hub.wait = None
        assert answers[0].status_code == 201, answers[0].text
    assert post(live, fresh(), {"hub": name}).status_code == 201


def test_a_caller_that_hangs_up_ends_the_download(live: Live, hub: Hub) -> None:
    files = adapter_files(live.backbone)
    name, task = publish(hub, files), fresh()
    open_gate = threading.Event()
    hub.wait = open_gate.wait
    client = live.new_client()
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            f"/v1/tasks/{task}/versions", json={"source": {"hub": name}}, timeout=httpx.Timeout(PATIENCE, read=0.5)
        )
    client.close()
    wait_until(lambda: hub.asked, "the hub is asked")
    open_gate.set()
    hub.wait = None
    assert_nothing(live, task)
    wait_until(lambda: not live.runtime.fetches._callers, "the download has ended")
    assert hub.files_asked() == []


def test_labelled_examples_decide_whether_it_is_activated(live: Live, hub: Hub) -> None:
    labels = [f"LABEL_{number}" for number in range(3)]
    rows = [{"text": f"w{number}", "label": labels[number % 3]} for number in range(6)]
    name, task = publish(hub, adapter_files(live.backbone)), fresh()
    answer = post(live, task, {"hub": name}, examples=rows, gate={"max_drop": 1})
    assert answer.status_code == 201, answer.text
    assert answer.json()["activated"] is True
    assert answer.json()["evaluation"]["examples"] == 6
    assert_error(post(live, fresh(), {"hub": name}, gate={"max_drop": 1}), 400, "needs labelled 'examples'")
    assert_error(post(live, fresh(), {"hub": name}, examples=[{"text": "w1"}]), 400, "examples, row 1")


def test_several_callers_at_once(start, hub: Hub) -> None:
    keys = ("one", "two", "three")
    with start(allowed_sources=("hub:org/*",), admin_keys=keys) as keyed:
        clients = [keyed.new_client(headers={"Authorization": f"Bearer {key}"}) for key in keys]
        names = [publish(hub, adapter_files(keyed.backbone)) for _ in keys]
        tasks = [fresh() for _ in keys]
        answers = at_once(
            *(
                lambda i=i: post(keyed, tasks[i], {"hub": names[i]}, clients[i])
                for i in range(len(keys))
            )
        )  # fmt: skip
        assert {answer.status_code for answer in answers} <= {201, 429}
        assert 201 in {answer.status_code for answer in answers}
        for client in clients:
            client.close()

"""Tasks, versions, aliases, settings and the adapter cache over HTTP."""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter

import pytest
import safetensors.torch

from tests import tiny
from tests.api.live import TEXTS, Live, adapter_files, assert_error, close, fresh, wait_until

SUMMARY = {"name", "kind", "method", "version", "residency", "bytes"}
VERSION = {"version", "sha256", "method", "kind", "bytes", "created", "card"}


def two_versions(live: Live, **options: object) -> str:
    """A task with two versions; `stable` points at the second."""
    task = live.add(**options)
    assert live.upload(task, adapter_files(live.backbone, **options)).json()["version"] == 2
    return task


# ---- uploading and reading


@pytest.mark.parametrize(
    ("method", "kind", "labels", "rank"),
    [
        ("lora", "classify", 5, 3),
        ("prefix", "tokens", 4, 5),
        ("bottleneck", "classify", 2, 4),
        ("mask", "classify", 3, None),
        ("lora", "embed", 0, 3),
        ("bottleneck", "regress", 1, 4),
    ],
)
def test_an_upload_becomes_a_version(live: Live, method, kind, labels, rank):
    task = fresh()
    files = adapter_files(live.backbone, method, kind=kind, labels=labels)
    answer = live.upload(task, files)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/tasks/{task}/versions/1"
    body = answer.json()
    weights = [data for name, data in files.items() if name.endswith(".safetensors")]
    assert body | {"sha256": ""} == {
        "task": task,
        "version": 1,
        "sha256": "",
        "method": method,
        "kind": kind,
        "rank": rank,
        "matched_tensors": sum(len(safetensors.torch.load(data)) for data in weights),
        "bytes": sum(map(len, weights)),
        "aliases": {"stable": 1},
    }
    assert len(body["sha256"]) == 64
    shown = live.client.get(answer.headers["location"])
    assert shown.status_code == 200
    assert shown.json().items() >= {key: body[key] for key in ("version", "sha256", "method", "kind", "bytes")}.items()
    assert set(shown.json()) >= VERSION


def test_the_same_bytes_again_are_the_same_version(live: Live):
    task = fresh()
    files = adapter_files(live.backbone)
    first = live.upload(task, files)
    live.upload(task, adapter_files(live.backbone))
    again = live.upload(task, files)
    assert again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert [v["version"] for v in live.client.get(f"/v1/tasks/{task}").json()["versions"]] == [1, 2]
    assert live.client.get(f"/v1/tasks/{task}").json()["aliases"] == {"stable": 1}


def test_a_download_gives_back_the_very_files(live: Live):
    files = adapter_files(live.backbone, "bottleneck") | {"README.md": b"# A card\n"}
    task = fresh()
    live.upload(task, files)
    answer = live.client.get(f"/v1/tasks/{task}/versions/1/download")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/gzip"
    assert f"{task}-1.tar.gz" in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:gz") as tar:
        got = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert got == files
    again = live.upload(task, archive=answer.content)
    assert again.status_code == 200
    assert again.json()["version"] == 1
    assert live.client.get(f"/v1/tasks/{task}").json()["versions"][0]["card"] == "# A card\n"
    live.wait_idle()


def test_a_task_shows_everything_about_itself(live: Live):
    files = adapter_files(live.backbone, labels=2, settings={"labels": ["no", "yes"], "template": "w1 {text}"})
    task = fresh()
    live.upload(task, files)
    live.wait_loaded()
    shown = live.client.get(f"/v1/tasks/{task}")
    assert shown.status_code == 200
    body = shown.json()
    assert set(body) >= SUMMARY | {
        "versions", "aliases", "labels", "template", "max_tokens", "pooling", "defaults", "priority", "pinned",
    }  # fmt: skip
    assert body["name"] == task
    assert body["version"] == 1
    assert body["aliases"] == {"stable": 1}
    assert body["labels"] == ["no", "yes"]
    assert body["template"] == "w1 {text}"
    assert body["max_tokens"] == live.backbone.max_tokens
    assert set(body["versions"][0]) >= VERSION
    listed = live.client.get("/v1/tasks", params={"limit": 1000}).json()["data"]
    assert [row for row in listed if row["name"] == task] == [{key: body[key] for key in SUMMARY}]


def test_an_upload_brings_settings_alias_and_may_stay_in_the_background(live: Live):
    task = fresh()
    form = {"task": '{"labels": ["a", "b", "c"], "max_tokens": 7}', "alias": "canary"}
    body = live.upload(task, adapter_files(live.backbone), **form).json()
    assert body["aliases"] == {"canary": 1}
    assert_error(live.ask(task), 404, "stable", "canary")
    assert live.outputs(f"{task}@canary")[0]["label"] in "abc"
    body = live.upload(task, adapter_files(live.backbone), activate="false").json()
    assert (body["version"], body["aliases"]) == (2, {"canary": 1})
    shown = live.client.get(f"/v1/tasks/{task}").json()
    assert (shown["labels"], shown["max_tokens"], shown["version"]) == (["a", "b", "c"], 7, None)


def test_pages_of_the_list_are_complete_and_in_order(start):
    with start() as live:
        files = adapter_files(live.backbone, kind="embed")
        names = [f"t{i}" for i in range(7)]
        for name in random.Random(1).sample(names, 7):
            live.upload(name, files)
        seen, token, pages = [], None, 0
        while True:
            query = {"limit": 3} | ({"page_token": token} if token else {})
            body = live.client.get("/v1/tasks", params=query).json()
            assert set(body) == {"data", "next_page_token"}
            assert all(set(row) == SUMMARY for row in body["data"])
            seen += [row["name"] for row in body["data"]]
            pages += 1
            if (token := body["next_page_token"]) is None:
                break
            assert len(body["data"]) == 3
        assert (seen, pages) == (names, 3)
        assert live.client.get("/v1/tasks").json()["next_page_token"] is None
        # A page token still holds when tasks come and go.
        token = live.client.get("/v1/tasks", params={"limit": 3}).json()["next_page_token"]
        live.client.delete("/v1/tasks/t2")
        rest = live.client.get("/v1/tasks", params={"page_token": token}).json()["data"]
        assert [row["name"] for row in rest] == names[3:]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "page_token=%FF", "page_token=!!"])
def test_a_bad_page_is_refused(live: Live, query):
    assert_error(live.client.get(f"/v1/tasks?{query}"), 400)


# ---- settings


def test_settings_are_set_and_taken_back(live: Live):
    task = live.add(labels=2, settings={"labels": ["no", "yes"]})
    changes = {
        "labels": ["bad", "good"],
        "template": "w1 {text} w2",
        "max_tokens": 20,
        "overflow": "truncate",
        "defaults": {"top_k": 1},
        "priority": 3,
        "pinned": True,
    }
    answer = live.client.put(f"/v1/tasks/{task}", json=changes)
    assert answer.status_code == 200
    assert answer.json().items() >= changes.items()
    assert live.client.get(f"/v1/tasks/{task}").json().items() >= changes.items()
    (output,) = live.outputs(task, "w3")
    assert output["label"] in ("bad", "good")
    assert len(output["scores"]) == 1
    back = live.client.put(f"/v1/tasks/{task}", json={"labels": None, "template": None, "pinned": False}).json()
    assert (back["labels"], back["template"], back["pinned"]) == (["no", "yes"], None, False)
    assert (back["priority"], back["max_tokens"]) == (3, 20)


def test_a_template_changes_the_text_that_is_read(live: Live):
    task = live.add()
    expected = live.outputs(task, "w1 w5 w2")
    live.client.put(f"/v1/tasks/{task}", json={"template": "w1 {text} w2"})
    assert close(live.outputs(task, "w5"), expected)
    live.client.put(f"/v1/tasks/{task}", json={"template": "{text_pair} {text} w2"})
    assert close(live.outputs(task, {"text": "w5", "text_pair": "w1"}), expected)


def test_pooling_of_a_task(live: Live):
    task = live.add(kind="embed")
    cls = live.outputs(task, pooling="cls")
    assert not close(live.outputs(task), cls)
    assert live.client.put(f"/v1/tasks/{task}", json={"pooling": "cls"}).json()["pooling"] == "cls"
    assert close(live.outputs(task), cls)
    assert not close(live.outputs(task, pooling="mean"), cls)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "a", "b"]}, None),
        ({"labels": []}, "labels"),
        ({"labels": [1, 2, 3]}, "labels"),
        ({"labels": "abc"}, "labels"),
        ({"template": "no place"}, None),
        ({"template": 5}, "template"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 10**400}, None),
        ({"overflow": "cut"}, "overflow"),
        ({"pooling": "median"}, "pooling"),
        ({"normalize": 1}, "normalize"),
        ({"defaults": []}, "defaults"),
        ({"defaults": {"top_k": 0}}, "top_k"),
        ({"defaults": {"no_such": 0}}, "no_such"),
        ({"priority": 11}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"pinned": "yes"}, "pinned"),
        ({"weights": 1}, "weights"),
        ([], None),
        (5, None),
    ],
)
def test_settings_that_cannot_be_are_refused(live: Live, body, param):
    task = live.add()
    before = live.client.get(f"/v1/tasks/{task}").json()
    error = assert_error(live.client.put(f"/v1/tasks/{task}", json=body), 400)
    if param:
        assert param in error["param"]
    assert live.client.get(f"/v1/tasks/{task}").json() == before


# ---- aliases


def test_an_alias_points_at_a_version(live: Live):
    task = two_versions(live)
    first, second = live.outputs(f"{task}@1"), live.outputs(f"{task}@2")
    assert not close(first, second)
    answer = live.client.put(f"/v1/tasks/{task}/aliases/old", json={"version": 1})
    assert answer.status_code == 200
    assert answer.json()["aliases"] == {"stable": 2, "old": 1}
    body = live.ask(f"{task}@old").json()
    assert (body["task"], body["version"]) == (task, 1)
    assert close(body["outputs"], first)
    assert close(live.outputs(task), second)
    assert close(live.outputs(f"{task}@stable"), second)
    answer = live.client.delete(f"/v1/tasks/{task}/aliases/old")
    assert answer.json()["aliases"] == {"stable": 2}
    assert_error(live.ask(f"{task}@old"), 404, "old")
    assert_error(live.client.delete(f"/v1/tasks/{task}/aliases/old"), 404)
    assert_error(live.client.delete(f"/v1/tasks/{task}/aliases/stable"), 409)


def test_a_split_shares_by_weight(live: Live):
    task = two_versions(live)
    split = [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}]
    answer = live.client.put(f"/v1/tasks/{task}/aliases/stable", json={"split": split})
    assert answer.json()["aliases"] == {"stable": split}
    assert answer.json()["version"] == 1
    expected = {1: live.outputs(f"{task}@1", "w1"), 2: live.outputs(f"{task}@2", "w1")}
    live.runtime.registry._rng = random.Random(5)
    asked = {"requests": [{"task": task, "inputs": "w1"}] * 400}
    results = live.client.post("/v1/predict", json=asked).json()["results"]
    assert all(close(result["outputs"], expected[result["version"]]) for result in results)
    share = Counter(result["version"] for result in results)
    assert set(share) == {1, 2}
    assert 340 <= share[1] <= 380


@pytest.mark.parametrize(
    ("alias", "body", "status"),
    [
        ("x", {}, 400),
        ("x", {"version": 1, "split": [{"version": 1, "weight": 1}]}, 400),
        ("x", {"version": 9}, 404),
        ("x", {"version": "1"}, 400),
        ("x", {"version": True}, 400),
        ("x", {"version": 10**30}, 404),
        ("x", {"split": []}, 400),
        ("x", {"split": [{"version": 1, "weight": 1}, {"version": 1, "weight": 2}]}, 400),
        ("x", {"split": [{"version": 1, "weight": 0}]}, 400),
        ("x", {"split": [{"version": 1, "weight": -1}]}, 400),
        ("x", {"split": [{"version": 1, "weight": 10**400}]}, 400),
        ("x", {"split": [{"version": 1}]}, 400),
        ("x", {"split": [{"version": 9, "weight": 1}, {"version": 1, "weight": 1}]}, 404),
        ("3", {"version": 1}, 400),
        ("a b", {"version": 1}, 400),
        ("é", {"version": 1}, 400),
        ("x" * 129, {"version": 1}, 400),
    ],
)
def test_an_alias_that_cannot_be_is_refused(live: Live, alias, body, status):
    task = live.add()
    assert_error(live.client.put(f"/v1/tasks/{task}/aliases/{alias}", json=body), status)
    assert live.client.get(f"/v1/tasks/{task}").json()["aliases"] == {"stable": 1}


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_a_weight_that_is_no_number_is_refused(live: Live, weight):
    task = live.add()
    content = f'{{"split": [{{"version": 1, "weight": {weight}}}]}}'
    assert_error(live.client.put(f"/v1/tasks/{task}/aliases/x", content=content), 400)


def test_rollback_walks_back(live: Live):
    task = two_versions(live)
    live.upload(task, adapter_files(live.backbone))
    points = []
    for _ in range(2):
        answer = live.client.post(f"/v1/tasks/{task}/rollback")
        assert answer.status_code == 200
        points.append(answer.json()["aliases"]["stable"])
    assert points == [2, 1]
    assert live.ask(task).json()["version"] == 1
    assert_error(live.client.post(f"/v1/tasks/{task}/rollback"), 409)
    assert live.client.post(f"/v1/tasks/{task}/rollback", json={"version": 3}).json()["aliases"] == {"stable": 3}
    assert live.client.post(f"/v1/tasks/{task}/rollback").json()["aliases"] == {"stable": 1}
    assert_error(live.client.post(f"/v1/tasks/{task}/rollback", json={"version": 8}), 404)


# ---- deleting


def test_a_version_stays_while_an_alias_points_at_it(live: Live):
    task = two_versions(live)
    live.client.put(f"/v1/tasks/{task}/aliases/old", json={"version": 1})
    assert_error(live.client.delete(f"/v1/tasks/{task}/versions/1"), 409, "old")
    assert_error(live.client.delete(f"/v1/tasks/{task}/versions/2"), 409, "stable")
    live.client.delete(f"/v1/tasks/{task}/aliases/old")
    answer = live.client.delete(f"/v1/tasks/{task}/versions/1")
    assert (answer.status_code, answer.content) == (204, b"")
    for answer in (
        live.client.get(f"/v1/tasks/{task}/versions/1"),
        live.client.get(f"/v1/tasks/{task}/versions/1/download"),
        live.client.delete(f"/v1/tasks/{task}/versions/1"),
        live.ask(f"{task}@1"),
    ):
        assert_error(answer, 404, "no version 1")
    assert live.upload(task, adapter_files(live.backbone)).json()["version"] == 3
    assert live.client.post(f"/v1/tasks/{task}/rollback").json()["aliases"] == {"stable": 2}


def test_a_deleted_task_is_gone_and_its_memory_given_back(live: Live):
    task = two_versions(live)
    live.outputs(task)
    live.outputs(f"{task}@1")
    live.wait_idle()
    before = live.runtime.adapter_cache.stats()
    blobs = len(list((live.hidden / "blobs").iterdir()))
    answer = live.client.delete(f"/v1/tasks/{task}")
    assert (answer.status_code, answer.content) == (204, b"")
    after = live.runtime.adapter_cache.stats()
    adapters = before.slots + before.memory - after.slots - after.memory
    assert adapters == 2
    assert after.slot_bytes + after.memory_bytes < before.slot_bytes + before.memory_bytes
    assert blobs - len(list((live.hidden / "blobs").iterdir())) == 2
    for answer in (live.ask(task), live.client.get(f"/v1/tasks/{task}"), live.client.delete(f"/v1/tasks/{task}")):
        assert_error(answer, 404, task)
    assert live.upload(task, adapter_files(live.backbone)).json()["version"] == 1
    live.outputs(task)


def test_content_that_two_tasks_share_survives_the_deletion_of_one(live: Live):
    files = adapter_files(live.backbone)
    one, other = fresh(), fresh()
    live.upload(one, files)
    live.upload(other, files)
    expected = live.outputs(one)
    live.client.delete(f"/v1/tasks/{one}")
    assert close(live.outputs(other), expected)
    assert live.client.get(f"/v1/tasks/{other}/versions/1/download").status_code == 200


# ---- the adapter cache


def test_an_adapter_is_loaded_pinned_and_unloaded_by_hand(live: Live):
    task = live.add()

    def level() -> str:
        return live.client.get(f"/v1/tasks/{task}").json()["residency"]

    answer = live.client.post(f"/v1/tasks/{task}/load")
    assert answer.status_code == 200
    assert answer.json()["residency"] == "slot"
    assert set(answer.json()) >= SUMMARY
    answer = live.client.post(f"/v1/tasks/{task}/unload")
    assert answer.status_code == 200
    assert answer.json()["residency"] == "disk"
    live.outputs(task)
    assert level() == "slot"
    answer = live.client.post(f"/v1/tasks/{task}/pin")
    assert answer.status_code == 200
    assert (answer.json()["pinned"], answer.json()["residency"]) == (True, "slot")
    answer = live.client.post(f"/v1/tasks/{task}/unpin")
    assert (answer.json()["pinned"], answer.json()["residency"]) == (False, "slot")
    live.wait_idle()


def test_a_pinned_task_keeps_its_slot(start):
    with start(slots=2) as live:
        pinned = live.add(seed=1)
        others = [live.add(seed=seed) for seed in (2, 3, 4)]
        live.client.post(f"/v1/tasks/{pinned}/pin")
        for task in others * 2:
            live.outputs(task)
        levels = {row["name"]: row["residency"] for row in live.client.get("/v1/tasks").json()["data"]}
        assert levels[pinned] == "slot"
        assert sorted(levels[task] for task in others) == ["memory", "memory", "slot"]
        # A new version of a pinned task takes the pin over.
        live.upload(pinned, adapter_files(live.backbone, seed=5))
        for task in others:
            live.outputs(task)
        wait_until(
            lambda: live.client.get(f"/v1/tasks/{pinned}").json()["residency"] == "slot", "the new version has its slot"
        )


def test_pinning_more_than_fits_is_refused_and_harms_nobody(start):
    with start(slots=1) as live:
        first, second = live.add(seed=1), live.add(seed=2)
        expected = live.outputs(first)
        assert live.client.post(f"/v1/tasks/{first}/pin").status_code == 200
        answer = live.client.post(f"/v1/tasks/{second}/pin")
        assert_error(answer, answer.status_code)
        assert answer.status_code in (409, 413, 429)
        assert live.client.get(f"/v1/tasks/{second}").json()["pinned"] is False
        answer = live.ask(second)
        assert_error(answer, answer.status_code)
        assert answer.status_code in (409, 413, 429)
        assert close(live.outputs(first), expected)
        live.client.post(f"/v1/tasks/{first}/unpin")
        live.outputs(second)
        live.wait_idle()


def test_pinned_tasks_are_ready_after_a_restart(start):
    with start() as live:
        pinned, other = live.add(seed=1), live.add(seed=2)
        live.client.post(f"/v1/tasks/{pinned}/pin")
        expected = live.outputs(pinned)
        live.client.put(f"/v1/tasks/{other}", json={"labels": ["a", "b", "c"]})
        details = live.client.get(f"/v1/tasks/{other}").json()
    with start(preload=0) as live:
        levels = {row["name"]: row["residency"] for row in live.client.get("/v1/tasks").json()["data"]}
        assert levels == {pinned: "slot", other: "disk"}
        assert close(live.outputs(pinned), expected)
        assert live.client.get(f"/v1/tasks/{other}").json() == details | {"residency": "disk"}
    with start(preload=1) as live:
        assert live.client.get(f"/v1/tasks/{pinned}").json()["residency"] == "slot"
        assert live.users() == 0


def test_more_pinned_tasks_than_slots_do_not_keep_a_server_from_starting(start):
    with start(slots=4) as live:
        tasks = [live.add(seed=seed) for seed in (1, 2, 3)]
        for task in tasks:
            live.client.post(f"/v1/tasks/{task}/pin")
    with start(slots=2) as live:
        # Which two have the slots is for the loading threads to settle.
        answers = [live.ask(task).status_code for task in tasks]
        assert sorted(answers) == [200, 200, 429]
        live.wait_idle()


# ---- base and references


def test_base_is_the_bare_backbone(live: Live, bert):
    shown = live.client.get("/v1/tasks/base")
    assert shown.status_code == 200
    assert shown.json().items() >= {"name": "base", "kind": "embed", "kinds": ["embed"], "chats": False}.items()
    body = live.ask("base", TEXTS, pooling="none").json()
    assert (body["task"], body["kind"], body["sha256"]) == ("base", "embed", live.backbone.sha256)
    expected = [states.tolist() for states in tiny.ask(bert, None, TEXTS)]
    assert close([output["embedding"] for output in body["outputs"]], expected)


def test_base_cannot_be_changed(live: Live):
    client = live.client
    for answer in (
        client.put("/v1/tasks/base", json={"priority": 1}),
        client.delete("/v1/tasks/base"),
        live.upload("base", adapter_files(live.backbone)),
        client.put("/v1/tasks/base/aliases/stable", json={"version": 1}),
        client.delete("/v1/tasks/base/aliases/x"),
        client.delete("/v1/tasks/base/versions/1"),
        client.post("/v1/tasks/base/rollback"),
        client.post("/v1/tasks/base/pin"),
        client.post("/v1/tasks/base/unpin"),
    ):
        assert_error(answer, 409, "base")
    assert all(row["name"] != "base" for row in client.get("/v1/tasks", params={"limit": 1000}).json()["data"])


@pytest.mark.parametrize("name", ["-x", ".x", "a b", "ä", "x" * 129, "a%00b", "a@1", "%20", "_x"])
def test_a_name_that_cannot_be_is_refused(live: Live, name):
    assert_error(live.upload(name, adapter_files(live.backbone)), 400, "no task name")


@pytest.mark.parametrize("name", ["x" * 128, "9", "a.b_c-D", "Z"])
def test_a_name_that_can_be_is_taken(live: Live, name):
    assert live.upload(name, adapter_files(live.backbone)).status_code == 201
    live.outputs(name)


@pytest.mark.parametrize(
    ("ref", "status"),
    [("{}@", 400), ("{}@9", 404), ("{}@1@1", 400), ("{}@x y", 400), ("{}@²", 400), ("@1", 400), ("{}@9999999999", 400)],
)
def test_a_reference_that_leads_nowhere(live: Live, ref, status):
    task = live.add()
    assert_error(live.ask(ref.format(task)), status)
    assert live.ask(f"{task}@1").status_code == 200
    assert live.ask(f"{task}@01").status_code == 200


def test_numbers_of_any_length_come_back(live: Live):
    task, large = live.add(), 10**30
    for answer in (
        live.client.put(f"/v1/tasks/{task}", json={"defaults": {"top_k": large}}),
        live.client.get(f"/v1/tasks/{task}"),
    ):
        assert answer.status_code == 200
        assert answer.json()["defaults"] == {"top_k": large}

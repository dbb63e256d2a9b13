"""Roll-outs over HTTP: splits that keep a caller's version, shadows, canaries that are withdrawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import safetensors.torch
from manyhats.registry.rollout import chosen
from manyhats.serving import shadow as shadow_module
from manyhats.serving.rollouts import MAX_WATCHED

from tests.api.live import Files, Live, adapter_files, assert_error, fresh
from tests.waiting import wait_until

WEIGHTS = "adapter_model.safetensors"
HALF = [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]
USERS = [f"user-{i}" for i in range(24)]


def faulty(live: Live) -> Files:
    """A real adapter whose answers are no numbers."""
    files = adapter_files(live.backbone)
    tensors = safetensors.torch.load(files[WEIGHTS])
    for name, tensor in tensors.items():
        if "lora" in name:
            tensor.fill_(3e38)
    return files | {WEIGHTS: safetensors.torch.save(tensors)}


def versions(live: Live, *files: Files, kind: Any = "classify") -> str:
    """A task with a version of each; random ones where none are given."""
    task = fresh()
    for one in files or (adapter_files(live.backbone, kind=kind), adapter_files(live.backbone, kind=kind)):
        answer = live.upload(task, one)
        assert answer.status_code == 201, answer.text
    live.wait_loaded()
    return task


def set_alias(live: Live, task: str, alias: str = "stable", **body: Any) -> dict[str, Any]:
    answer = live.client.put(f"/v1/tasks/{task}/aliases/{alias}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def state(live: Live, task: str, alias: str = "stable") -> dict[str, Any]:
    answer = live.client.get(f"/v1/tasks/{task}/aliases/{alias}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def predict(live: Live, task: str, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = live.client.post(f"/v1/tasks/{task}/predict", json={"inputs": "w1 w2", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def metrics(live: Live) -> dict[str, float]:
    lines = live.client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


# ---- splits that keep a version


def test_a_header_or_a_field_keeps_the_version(live: Live) -> None:
    task = versions(live)
    set_alias(live, task, split=HALF)
    for user in USERS:
        expected = chosen({1: 50, 2: 50}, f"{task}@stable", user)
        assert predict(live, task, {"X-Affinity": user})["version"] == expected
        assert predict(live, task, affinity=user)["version"] == expected
        assert predict(live, f"{task}@stable", {"X-Affinity": "another"}, affinity=user)["version"] == expected
    found = {predict(live, task)["version"] for _ in range(60)}
    assert found == {1, 2}


def test_many_at_once_have_each_their_own(live: Live) -> None:
    task = versions(live)
    set_alias(live, task, split=HALF)
    expected = [chosen({1: 50, 2: 50}, f"{task}@stable", user) for user in USERS]
    items = [{"task": task, "inputs": "w1", "affinity": user} for user in USERS]
    results = live.client.post("/v1/predict", json={"requests": items}).json()["results"]
    assert [result["version"] for result in results] == expected
    body = {"tasks": [task] * 5, "inputs": "w1", "affinity": USERS[0]}
    results = live.client.post("/v1/predict", json=body).json()["results"]
    assert [result["version"] for result in results] == [expected[0]] * 5


def test_the_alias_names_its_header_and_openais_user_is_a_value_too(live: Live) -> None:
    task = versions(live, kind="embed")
    set_alias(live, task, split=HALF, affinity="X-Session")
    vectors = [live.outputs(f"{task}@{n}", "w1 w2")[0]["embedding"] for n in (1, 2)]
    for user in USERS[:8]:
        expected = chosen({1: 50, 2: 50}, f"{task}@stable", user)
        assert predict(live, task, {"X-Session": user, "X-Affinity": "all"})["version"] == expected
        answer = live.client.post("/v1/embeddings", json={"model": task, "input": "w1 w2", "user": user})
        assert answer.json()["data"][0]["embedding"] == pytest.approx(vectors[expected - 1], abs=1e-4)
    assert state(live, task)["affinity"] == "X-Session"


@pytest.mark.parametrize("value", ["", 7, "x" * 1001])
def test_a_value_that_is_none_is_refused(live: Live, value: Any) -> None:
    task = versions(live)
    answer = live.client.post(f"/v1/tasks/{task}/predict", json={"inputs": "w1", "affinity": value})
    assert_error(answer, 400, "affinity")


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"version": 1, "affinity": "no header"}, "name of a header"),
        ({"version": 1, "shadow": {"version": 2, "fraction": 0}}, "shadow.fraction"),
        ({"version": 1, "shadow": {"version": 1, "fraction": 1}}, "another version"),
        ({"version": 1, "shadow": {"version": 2, "fraction": 1, "more": 1}}, "more"),
        ({"version": 1, "canary": {"version": 1, "max_error_rate": 0.1}}, "several versions"),
        ({"split": HALF, "canary": {"version": 2}}, "needs a bound"),
        ({"split": HALF, "canary": {"version": 2, "max_p95_ms": 5, "min_requests": 10**6}}, "min_requests"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(live: Live, body: dict[str, Any], pattern: str) -> None:
    task = versions(live)
    assert_error(live.client.put(f"/v1/tasks/{task}/aliases/stable", json=body), 400, pattern)
    assert "rollouts" not in live.client.get(f"/v1/tasks/{task}").json()


def test_an_alias_can_be_read(live: Live) -> None:
    task = versions(live)
    assert state(live, task) == {
        "task": task, "alias": "stable", "version": 2, "split": None, "affinity": "x-affinity", "since": None,
        "shadow": None, "canary": None, "withdrawn": None,
    }  # fmt: skip
    for alias, status in (("none", 404), ("2", 400), ("a b", 400)):
        assert_error(live.client.get(f"/v1/tasks/{task}/aliases/{alias}"), status)
    assert_error(live.client.get("/v1/tasks/nobody/aliases/stable"), 404)


# ---- shadows


def test_a_shadow_that_says_the_same_agrees_and_another_does_not(live: Live) -> None:
    same, other = adapter_files(live.backbone, labels=4), adapter_files(live.backbone, labels=4)
    texts = [f"w{i} w{i + 3} w{2 * i}" for i in range(12)]
    task = versions(live, same, other)
    differing = sum(
        one["label"] != another["label"]
        for one, another in zip(live.outputs(f"{task}@1", texts), live.outputs(f"{task}@2", texts), strict=True)
    )
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
    assert {predict(live, task, inputs=texts)["version"] for _ in range(4)} == {1}
    counts = wait_until(
        lambda: (found := state(live, task)["shadow"])["answered"] == 4 and found, "the shadow has answered"
    )
    assert (counts["failed"], counts["skipped"], counts["not_compared"]) == (0, 0, 0)
    assert (counts["agreed"], counts["differed"]) == (4 * (12 - differing), 4 * differing)
    assert counts["main"]["p50_ms"] > 0
    assert counts["shadow"]["p95_ms"] >= counts["shadow"]["p50_ms"] > 0
    assert live.client.get(f"/v1/tasks/{task}").json()["rollouts"]["stable"]["shadow"] == counts
    counted = metrics(live)
    assert counted[f'manyhats_shadow_requests_total{{alias="stable",outcome="answered",task="{task}"}}'] == 4
    assert counted[f'manyhats_shadow_inputs_total{{alias="stable",outcome="differed",task="{task}"}}'] == 4 * differing
    # Its requests are nobody's, and counts begin anew with another shadow.
    assert counted[f'manyhats_requests_total{{method="lora",outcome="ok",task="{task}"}}'] == 6
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 0.5})
    assert state(live, task)["shadow"]["answered"] == 0


def test_about_the_fraction_is_asked_and_other_aliases_are_not(live: Live) -> None:
    task = versions(live)
    set_alias(live, task, "careful", version=1, shadow={"version": 2, "fraction": 0.3})
    for _ in range(20):
        predict(live, task)
        predict(live, f"{task}@1")
    assert state(live, task, "careful")["since"] is None
    for _ in range(100):
        predict(live, f"{task}@careful")
    wait_until(lambda: not live.runtime.rollouts._shadows.running, "no shadow is asked")
    counts = state(live, task, "careful")["shadow"]
    assert 10 < counts["answered"] + counts["skipped"] < 55


def test_a_shadow_that_fails_is_counted_and_harms_nobody(live: Live) -> None:
    task = versions(live, adapter_files(live.backbone), faulty(live))
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
    for _ in range(3):
        predict(live, task)
    counts = wait_until(lambda: (f := state(live, task)["shadow"])["failed"] == 3 and f, "three have failed")
    assert "not finite" in counts["error"]
    assert counts["answered"] == 0


def test_a_busy_server_skips_the_shadow(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    task = versions(live)
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
    monkeypatch.setattr(shadow_module, "BUSY", 0)
    for _ in range(3):
        predict(live, task)
    assert state(live, task)["shadow"]["skipped"] == 3


def test_only_so_many_shadows_are_asked_at_a_time(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    task = versions(live)
    set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1})
    monkeypatch.setattr(shadow_module, "MAX_RUNNING", 2)
    results = live.client.post("/v1/predict", json={"requests": [{"task": task, "inputs": "w1"}] * 6}).json()["results"]
    assert [result["version"] for result in results] == [1] * 6
    wait_until(lambda: state(live, task)["shadow"]["answered"] == 2, "two are asked")
    assert state(live, task)["shadow"]["skipped"] == 4


def test_every_kind_knows_when_two_versions_agree(live: Live) -> None:
    for kind, labels in (("tokens", 3), ("regress", 1), ("rerank", 1), ("span", 2), ("embed", 1)):
        task = versions(live, *(adapter_files(live.backbone, kind=kind, labels=labels) for _ in range(2)))
        assert live.client.put(f"/v1/tasks/{task}", json={"kind": kind}).status_code == 200
        set_alias(live, task, version=1, shadow={"version": 2, "fraction": 1, "tolerance": 1e9})
        inputs = {"text": "w1 w2", "text_pair": "w3 w4 w5"} if kind in ("rerank", "span") else "w1 w2 w3"
        predict(live, task, inputs=inputs)
        counts = wait_until(lambda task=task: (f := state(live, task)["shadow"])["answered"] and f, kind)
        assert counts["agreed"] + counts["differed"] == 1, kind
        if kind in ("regress", "rerank", "embed"):
            assert counts["agreed"] == 1, kind


# ---- canaries


def test_a_faulty_canary_is_withdrawn_and_everybody_is_answered_again(live: Live, caplog: Any) -> None:
    task = versions(live, adapter_files(live.backbone), faulty(live))
    split = [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]
    set_alias(live, task, split=split, canary={"version": 2, "max_error_rate": 0.1, "min_requests": 5})
    statuses: Counter[int] = Counter()

    def asked() -> bool:
        statuses[live.ask(task, "w1").status_code] += 1
        return state(live, task)["withdrawn"] is not None

    before = live.runtime.rollouts.withdrawals
    wait_until(asked, "the canary is withdrawn")
    assert set(statuses) == {200, 500}
    assert statuses[500] >= 5
    withdrawn = state(live, task)
    assert (withdrawn["version"], withdrawn["split"], withdrawn["canary"]) == (1, None, None)
    assert withdrawn["withdrawn"]["version"] == 2
    assert "failed by the server's fault, which is more than 10 %" in withdrawn["withdrawn"]["reason"]
    wait_until(lambda: live.runtime.rollouts.withdrawals == before + 1, "it is counted")
    assert metrics(live)["manyhats_canary_withdrawals_total"] == before + 1
    assert any(
        f"the canary {task}@2 of the alias 'stable' was withdrawn" in record.getMessage() for record in caplog.records
    )
    for _ in range(30):
        assert predict(live, task)["version"] == 1
    # A change of the alias as any: rolling back brings the split, without the canary's bounds.
    body = live.client.post(f"/v1/tasks/{task}/rollback").json()
    assert body["aliases"]["stable"] == split
    assert "rollouts" not in body


def test_what_the_caller_did_wrong_withdraws_nothing(live: Live) -> None:
    task = versions(live)
    set_alias(live, task, split=HALF, canary={"version": 2, "max_error_rate": 0, "min_requests": 1})
    for _ in range(20):
        assert live.ask(task, "w1", nonsense=True).status_code == 400
        assert live.ask(task, "w1 " * 1000).status_code == 400
    assert predict(live, task)
    assert state(live, task)["withdrawn"] is None


def test_a_slow_canary_is_withdrawn(live: Live) -> None:
    task = versions(live)
    # Nothing is answered in a millionth of a millisecond.
    set_alias(live, task, split=HALF, canary={"version": 2, "max_p95_ms": 1e-6, "min_requests": 3})
    wait_until(lambda: predict(live, task) and state(live, task)["withdrawn"], "the canary is withdrawn")
    assert "latencies" in state(live, task)["withdrawn"]["reason"]


def test_a_canary_among_many_requests_of_one_call_is_judged_too(live: Live) -> None:
    task = versions(live, adapter_files(live.backbone), faulty(live))
    set_alias(live, task, split=HALF, canary={"version": 2, "max_error_rate": 0.1, "min_requests": 5})
    body = {"requests": [{"task": task, "inputs": "w1"}] * 40}
    results = live.client.post("/v1/predict", json=body).json()["results"]
    assert {"error" in result for result in results} == {True, False}
    wait_until(lambda: state(live, task)["withdrawn"], "the canary is withdrawn")


def test_the_counts_of_a_canary_are_shown(live: Live) -> None:
    task = versions(live)
    bounds = {"max_error_rate": 0.5, "max_latency_ratio": 1000, "min_requests": 100, "window_seconds": 3600}
    set_alias(live, task, split=HALF, canary={"version": 2, **bounds})
    asked = Counter(predict(live, task)["version"] for _ in range(20))
    found = state(live, task)["canary"]
    assert found["canary"]["requests"] == asked[2]
    assert found["others"]["requests"] == asked[1]
    assert found["others"]["p95_ms"] > 0
    assert {name: found[name] for name in bounds} == bounds
    label = f'{{alias="stable",task="{task}",version="canary"}}'
    assert metrics(live)[f"manyhats_canary_requests{label}"] == asked[2]


def test_the_aliases_that_are_watched_are_bounded(live: Live) -> None:
    rollouts = live.runtime.rollouts
    task = versions(live)
    for i in range(20):
        set_alias(live, task, f"a{i}", version=1, shadow={"version": 2, "fraction": 0.001})
    for i in range(20):
        predict(live, f"{task}@a{i}")
    assert len(rollouts.watched()) <= MAX_WATCHED
    found = live.runtime.registry.task(task)
    assert all(rollouts.watch(found, f"a{i}") for i in range(20))

"""Health, figures, the schema and the page."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.live import Live, adapter_files, assert_error, fresh
from tests.waiting import wait_until


def figures(live: Live, key: str = "") -> dict[str, float]:
    """Every sample of /metrics, by name and labels, as the bearer of a key sees them."""
    answer = live.client.get("/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        sample.name + "".join(f"|{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_health_and_readiness(live: Live):
    assert live.client.get("/healthz").json() == {"status": "ok"}
    answer = live.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json().items() >= {"status": "ready", "backbone": live.backbone.name}.items()


def test_figures_count(start):
    with start() as live:
        before = figures(live)
        assert before["manyhats_tasks"] == 0
        assert before["manyhats_ready"] == 1
        one, other = live.add("one"), live.add("other", "mask")
        live.outputs(one, ["w1", "w2"])
        live.client.post("/v1/predict", json={"tasks": [one, other, "nobody"], "inputs": "w1 w2"})
        live.ask(one, "w1", pooling="x")
        live.wait_idle()
        after = figures(live)
        assert after["manyhats_tasks"] == 2
        assert after[f"manyhats_requests_total|method=lora|outcome=ok|task={one}"] == 2
        assert after[f"manyhats_requests_total|method=mask|outcome=ok|task={other}"] == 1
        refused = {
            key: value for key, value in after.items() if "manyhats_requests_total" in key and "outcome=ok" not in key
        }
        assert sum(refused.values()) == 2
        assert after[f"manyhats_inputs_total|method=lora|task={one}"] == 3
        assert after[f"manyhats_inputs_total|method=mask|task={other}"] == 1
        assert after["manyhats_batch_tokens_total"] == 2 * 3 + 2 * 4
        assert after[f"manyhats_request_seconds_count|method=lora|task={one}"] == 2
        assert after["manyhats_slots_used"] == 2
        assert 0 < after["manyhats_slot_bytes"] < after["manyhats_slot_bytes_limit"] == 2 << 30
        assert after["manyhats_memory_adapters"] == 0  # on a CPU, what is in a slot is in no other place
        assert after["manyhats_adapter_loads_total"] == 2
        assert after["manyhats_adapter_load_seconds_count"] == 2
        assert after["manyhats_inputs_waiting"] == 0
        assert after["manyhats_http_requests_total|code=200|route=POST /v1/tasks/{task}/predict"] == 1
        assert after["manyhats_http_requests_total|code=400|route=POST /v1/tasks/{task}/predict"] == 1
        assert after["manyhats_http_requests_total|code=200|route=POST /v1/predict"] == 1
        assert after["manyhats_http_request_seconds_count|route=POST /v1/predict"] == 1
        assert after["manyhats_adapter_requests_total|tier=slot"] >= 3
        assert after["manyhats_adapter_requests_total|tier=disk"] >= 2
        assert after["manyhats_adapter_requests_total|tier=memory"] == 0
        live.client.delete(f"/v1/tasks/{one}")
        gone = figures(live)
        assert gone["manyhats_slots_used"] == 1
        assert not any(f"task={one}" in name for name in gone)
        assert any(f"task={other}" in name for name in gone)


def test_where_an_adapter_was_found_is_counted(start):
    """One slot for two tasks: who leaves it stays in memory."""
    with start(slots=1, preload=0) as live:
        one, other = live.add("one"), live.add("other")
        for task in (one, other, one, one):
            live.outputs(task, "w1")
            live.wait_idle()
        before = figures(live)
        for task in (other, other, one):
            live.outputs(task, "w1")
            live.wait_idle()
        after = figures(live)
        tiers = ("slot", "memory", "disk")
        gained = [after[name] - before[name] for name in (f"manyhats_adapter_requests_total|tier={t}" for t in tiers)]
        assert gained == [1, 2, 0]
        assert after["manyhats_adapter_evictions_total"] - before["manyhats_adapter_evictions_total"] == 2


def test_labels_of_tasks_are_bounded(start):
    with start(metrics_tasks=2) as live:
        tasks = [live.add() for _ in range(4)]
        for task in tasks:
            live.outputs(task, "w1")
        names = {m[1] for key in figures(live) if (m := re.search(r"requests_total.*task=(.*)", key))}
        assert len(names & set(tasks)) <= 2
        assert "other" in names
        for i in range(20):
            live.ask(f"stranger-{i}")
        assert not any("stranger" in key for key in figures(live))


@pytest.mark.parametrize(
    ("names", "keys", "readers"),
    [
        ("readers", {}, {""}),
        ("readers", {"api_keys": "ask", "admin_keys": "admin"}, {"ask", "admin"}),
        ("readers", {"admin_keys": "admin"}, {"", "wrong", "admin"}),
        ("everybody", {"api_keys": "ask"}, {"", "ask", "wrong"}),
        ("nobody", {}, set()),
        ("nobody", {"api_keys": "ask"}, set()),
    ],
)
def test_tasks_are_named_to_those_who_may_read_them(start, names, keys, readers):
    with start(metrics_names=names, **keys) as live:
        for key in keys.values():
            live.client.headers["Authorization"] = f"Bearer {key}"
        tasks = [live.add("secret"), live.add("secret")]
        for task in tasks:
            live.outputs(task, ["w1", "w2"])
        live.wait_idle()
        live.client.headers.pop("Authorization", None)
        for key in ("", "wrong", *keys.values()) if keys else ("",):
            found = figures(live, key)
            assert any("secret" in name for name in found) == (key in readers), key
            inputs = [value for name, value in found.items() if name.startswith("manyhats_inputs_total")]
            assert sum(inputs) == 4
            assert len(inputs) == (2 if key in readers else 1)
            counts = [value for name, value in found.items() if name.startswith("manyhats_request_seconds_count")]
            assert sum(counts) == 2
            buckets = [value for name, value in found.items() if "manyhats_request_seconds_bucket|le=+Inf" in name]
            assert sum(buckets) == 2
            assert found["manyhats_tasks"] == 2


def test_the_schema_is_sound_and_complete(live: Live):
    answer = live.client.get("/openapi.json")
    assert answer.status_code == 200
    schema = answer.json()
    assert schema["openapi"].startswith("3.")
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) >= {
        "GET /v1/tasks", "GET /v1/tasks/{task}", "PUT /v1/tasks/{task}", "DELETE /v1/tasks/{task}",
        "POST /v1/tasks/{task}/versions", "GET /v1/tasks/{task}/versions/{number}",
        "DELETE /v1/tasks/{task}/versions/{number}", "GET /v1/tasks/{task}/versions/{number}/download",
        "PUT /v1/tasks/{task}/aliases/{alias}", "POST /v1/tasks/{task}/rollback", "POST /v1/tasks/{task}/load",
        "POST /v1/tasks/{task}/unload", "POST /v1/tasks/{task}/pin", "POST /v1/tasks/{task}/unpin",
        "POST /v1/tasks/{task}/predict", "POST /v1/predict", "GET /healthz", "GET /readyz", "GET /metrics",
    }  # fmt: skip
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)

    def references(part):
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    for reference in references(schema):
        place = schema
        assert reference.startswith("#/")
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, f"{reference} leads nowhere"
            place = place[step]
    # The one shape of error, and FastAPI's own nowhere.
    assert not any("422" in operation["responses"] for operation in operations.values())
    assert "ErrorBody" in schema["components"]["schemas"]
    for name in ("POST /v1/predict", "POST /v1/tasks/{task}/predict", "PUT /v1/tasks/{task}"):
        assert "application/json" in operations[name]["requestBody"]["content"]
    assert "multipart/form-data" in operations["POST /v1/tasks/{task}/versions"]["requestBody"]["content"]
    assert live.client.get("/docs").status_code == 200


def test_the_page_is_html(live: Live):
    answer = live.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert re.search(r"(?i)<!doctype html>", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|https?://|<script>|<style", answer.text)
    loaded = re.findall(r'(?:src|href)="(page/[^"]+)"', answer.text)
    assert len(loaded) == 2
    for address in loaded:
        asset = live.client.get(f"/{address}")
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript"))
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_the_page_sends_is_taken(live: Live):
    """As a browser sends it from the page that the server itself has given."""
    own = f"http://{live.host}:{live.port}"
    with live.new_client(headers={"Origin": own, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}) as page:
        task = fresh()
        assert live.upload(task, adapter_files(live.backbone), client=page).status_code == 201
        headers = {"Content-Type": "application/json"}
        asked = page.post("/v1/predict", content=f'{{"tasks": ["{task}"], "inputs": "w1"}}', headers=headers)
        assert asked.json()["results"][0]["task"] == task


def test_every_answer_has_an_id(live: Live, monkeypatch: pytest.MonkeyPatch):
    given = {"X-Request-Id": "a-caller's-own.1"}
    for method, path in (("GET", "/healthz"), ("GET", "/nowhere"), ("POST", "/v1/tasks/none/predict"), ("HEAD", "/")):
        assert live.client.request(method, path, headers=given).headers["x-request-id"] == given["X-Request-Id"]
        made = [live.client.request(method, path).headers["x-request-id"] for _ in range(2)]
        assert len(set(made)) == 2
        for wrong in ("x" * 200, "a b", ""):
            answer = live.client.request(method, path, headers={"X-Request-Id": wrong})
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Content-Type": "text/plain"}):
        refused = live.client.post("/v1/predict", content=b"{}", headers=headers | given)
        assert refused.status_code in (403, 415, 421)
        assert refused.headers["x-request-id"] == given["X-Request-Id"]

    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(live.runtime.registry, "tasks", fails)
    answer = live.client.get("/v1/tasks", headers=given)
    assert_error(answer, 500)
    assert answer.headers["connection"] == "close"  # or the next request could meet its end
    assert answer.headers["x-request-id"] == given["X-Request-Id"]


def test_a_server_that_is_not_ready_says_so(live: Live):
    live.runtime.state = "draining"
    try:
        assert_error(live.client.get("/readyz"), 503, "draining")
        assert live.client.get("/healthz").status_code == 200
        assert figures(live)["manyhats_ready"] == 0
    finally:
        live.runtime.state = "ready"
    assert live.client.get("/readyz").status_code == 200


def test_a_server_whose_engine_is_not_healthy_says_so(live: Live, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live.runtime.engine, "_last_step_ok", False)
    assert_error(live.client.get("/readyz"), 503, "recovering from an error of its engine")
    assert live.client.get("/healthz").status_code == 200
    assert figures(live)["manyhats_ready"] == 0
    live.ask("base")
    wait_until(lambda: live.client.get("/readyz").status_code == 200, "a step was in order")


def test_an_upload_is_ready_before_it_is_asked(live: Live):
    task = fresh()
    live.upload(task, adapter_files(live.backbone))
    live.client.post(f"/v1/tasks/{task}/load")
    assert live.ask(task).json()["timing"]["load_ms"] == 0

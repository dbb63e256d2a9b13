"""Health, figures, the schema and the page."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.api.live import Live, adapter_files, assert_error, fresh


def figures(live: Live) -> dict[str, float]:
    """Every sample of /metrics, by name and labels."""
    answer = live.client.get("/metrics")
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
        assert after[f"manyhats_requests_total|outcome=ok|task={one}"] == 2
        assert after[f"manyhats_requests_total|outcome=ok|task={other}"] == 1
        refused = {key: value for key, value in after.items() if "requests_total" in key and "outcome=ok" not in key}
        assert sum(refused.values()) == 2
        assert after[f"manyhats_inputs_total|task={one}"] == 3
        assert after[f"manyhats_inputs_total|task={other}"] == 1
        assert after["manyhats_batch_tokens_total"] == 2 * 3 + 2 * 4
        assert after[f"manyhats_request_seconds_count|task={one}"] == 2
        assert after["manyhats_slots_used"] == 2
        assert after["manyhats_slot_bytes"] > 0
        assert after["manyhats_memory_adapters"] == 2
        assert after["manyhats_adapter_loads_total"] == 2
        assert after["manyhats_adapter_load_seconds_count"] == 2
        assert after["manyhats_inputs_waiting"] == 0
        live.client.delete(f"/v1/tasks/{one}")
        assert figures(live)["manyhats_slots_used"] == 1


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


def test_a_server_that_is_not_ready_says_so(live: Live):
    live.runtime.state = "draining"
    try:
        assert_error(live.client.get("/readyz"), 503, "draining")
        assert live.client.get("/healthz").status_code == 200
        assert figures(live)["manyhats_ready"] == 0
    finally:
        live.runtime.state = "ready"
    assert live.client.get("/readyz").status_code == 200


def test_an_upload_is_ready_before_it_is_asked(live: Live):
    task = fresh()
    live.upload(task, adapter_files(live.backbone))
    live.client.post(f"/v1/tasks/{task}/load")
    assert live.ask(task).json()["timing"]["load_ms"] == 0

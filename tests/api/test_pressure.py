"""Waiting, hanging up, full queues, deadlines, draining: the model is held by a gate, so nothing depends on time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manyhats.engine.runner import Runner

from tests.api.live import (
    TEXTS,
    Gate,
    Live,
    Witness,
    adapter_files,
    assert_error,
    assert_error_body,
    at_once,
    close,
    fresh,
    post,
    raw,
    wait_until,
)


class Later:
    """A job in a thread of its own."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, args=(job,))
        self._thread.start()

    def _run(self, job: Callable[[], Any]) -> None:
        self._result = job()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join()
        return self._result


def waiting(live: Live) -> int:
    return sum(live.runtime.engine.waiting().values())


def held(live: Live, gate: Gate, task: str = "base") -> Later:
    """A request whose batch stands at the gate."""
    before = gate.entered
    later = Later(lambda: live.ask(task, "w9"))
    gate.wait_for(before + 1)
    return later


def ready(live: Live, **options: Any) -> str:
    """A new task, in its slot."""
    task = live.add(**options)
    assert live.client.post(f"/v1/tasks/{task}/load").status_code == 200
    return task


# ---- the event loop


def test_the_server_answers_others_while_the_model_works(live: Live, gate: Gate):
    running = held(live, gate)
    assert live.client.get("/healthz").status_code == 200
    assert live.client.get("/readyz").status_code == 200
    assert live.client.get("/metrics").status_code == 200
    task = fresh()
    assert live.upload(task, adapter_files(live.backbone)).status_code == 201
    assert live.client.post(f"/v1/tasks/{task}/load").json()["residency"] == "slot"
    assert live.client.put(f"/v1/tasks/{task}", json={"priority": 1}).status_code == 200
    assert live.client.delete(f"/v1/tasks/{task}").status_code == 204
    assert not running.done
    gate.open()
    assert running.result().status_code == 200


def test_the_server_answers_others_while_an_adapter_is_read(live: Live, monkeypatch):
    slow, quick = fresh(), ready(live)
    live.upload(slow, adapter_files(live.backbone), activate="false")
    let, started = threading.Event(), threading.Event()
    load = live.runtime.adapter_cache._load

    def patient(version):
        if version.task == slow:
            started.set()
            assert let.wait(60)
        return load(version)

    monkeypatch.setattr(live.runtime.adapter_cache, "_load", patient)
    later = Later(lambda: live.ask(f"{slow}@1"))
    assert started.wait(60)
    assert live.outputs(quick)
    results = Later(
        lambda: live.client.post("/v1/predict", json={"tasks": [quick, f"{slow}@1"], "inputs": "w1"}).json()["results"]
    )
    assert live.client.get("/healthz").status_code == 200
    assert not later.done
    let.set()
    assert later.result().json()["timing"]["load_ms"] > 0
    assert ["error" in result for result in results.result()] == [False, False]
    live.wait_idle()


def test_an_adapter_that_cannot_be_read_any_more_fails_alone(live: Live):
    good, bad = ready(live), live.add()
    version = live.runtime.registry.task(bad).stable
    live.client.post(f"/v1/tasks/{bad}/unload")
    weights = live.runtime.registry.files(version) / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:50])
    results = live.client.post("/v1/predict", json={"tasks": [bad, good], "inputs": "w1"}).json()["results"]
    assert ["error" in result for result in results] == [True, False]
    weights.write_bytes(kept)
    assert live.outputs(bad)
    live.wait_idle()


# ---- clients that hang up


def test_a_client_that_hangs_up_leaves_the_queue_and_gives_all_back(live: Live, gate: Gate):
    task = ready(live)
    running = held(live, gate)
    connection = raw(live, post(f"/v1/tasks/{task}/predict", {"inputs": TEXTS}))
    wait_until(lambda: waiting(live) == 3, "three rows wait")
    assert (live.users(), live.pins()) == (1, 1)
    connection.close()
    wait_until(lambda: waiting(live) == 0, "the rows have left the queue")
    wait_until(lambda: live.users() == 0 and live.pins() == 0, "slot and files are given back")
    gate.open()
    assert running.result().status_code == 200
    assert gate.batches == [1]  # the abandoned rows were never computed
    live.wait_idle()


def test_a_client_that_hangs_up_while_its_rows_are_computed(live: Live, gate: Gate):
    task = ready(live)
    expected = None
    connection = raw(live, post(f"/v1/tasks/{task}/predict", {"inputs": TEXTS}))
    gate.wait_for(1)
    other = Later(lambda: live.ask(task))
    wait_until(lambda: waiting(live) == 3, "the other's rows wait")
    connection.close()
    wait_until(lambda: live.users() == 1, "only the other holds the slot")
    gate.open()
    expected = other.result().json()["outputs"]
    assert close(live.outputs(task), expected)
    live.wait_idle()


def test_a_client_that_hangs_up_while_its_adapter_is_read(live: Live, monkeypatch):
    task = fresh()
    live.upload(task, adapter_files(live.backbone), activate="false")
    let, started = threading.Event(), threading.Event()
    load = live.runtime.adapter_cache._load

    def patient(version):
        started.set()
        assert let.wait(60)
        return load(version)

    monkeypatch.setattr(live.runtime.adapter_cache, "_load", patient)
    connection = raw(live, post(f"/v1/tasks/{task}@1/predict", {"inputs": TEXTS}))
    assert started.wait(60)
    connection.close()
    wait_until(lambda: live.pins() == 0, "the files are given back")
    let.set()
    live.wait_idle()
    assert live.outputs(f"{task}@1")
    live.wait_idle()


def test_many_that_hang_up_leave_nothing_behind(live: Live, gate: Gate):
    tasks = [ready(live, method=method) for method in ("lora", "prefix", "mask")]
    running = held(live, gate)
    body = {"tasks": [*tasks, "base", "nobody"], "inputs": TEXTS}
    connections = [raw(live, post("/v1/predict", body)) for _ in range(8)]
    wait_until(lambda: waiting(live) == 8 * 4 * 3, "all rows wait")
    for connection in connections[1:]:
        connection.close()
    wait_until(lambda: waiting(live) == 4 * 3, "those of the last client remain")
    gate.open()
    with connections[0] as last:
        answer = b""
        while not answer.endswith(b"}]}") and (piece := last.recv(1 << 16)):
            answer += piece
    results = json.loads(answer.partition(b"\r\n\r\n")[2])["results"]
    assert [("error" in result) for result in results] == [False] * 4 + [True]
    assert running.result().status_code == 200
    live.wait_idle()


# ---- full queues


def test_a_full_queue_is_refused_at_once(start, gate: Gate):
    with start(queue_per_task=4, queue_total=6) as live:
        one, other = ready(live), ready(live)
        running = held(live, gate)
        first = Later(lambda: live.ask(one))
        wait_until(lambda: waiting(live) == 3, "three rows wait")
        answer = live.ask(one, ["w1", "w2"])
        error = assert_error(answer, 429, one, "3", "4")
        assert error["type"] == "OverloadedError"
        assert int(answer.headers["retry-after"]) >= 1
        second = Later(lambda: live.ask(other))
        wait_until(lambda: waiting(live) == 6, "six rows wait")
        assert_error(live.ask("base", "w1"), 429, "6")
        results = live.client.post("/v1/predict", json={"tasks": [one, "nobody"], "inputs": "w1"}).json()["results"]
        assert_error_body(results[0], 429)
        assert_error_body(results[1], 404)
        assert waiting(live) == 6
        gate.open()
        assert [later.result().status_code for later in (running, first, second)] == [200] * 3
        assert live.ask(one).status_code == 200
        live.wait_idle()


def test_what_fits_of_a_call_is_answered(start, gate: Gate):
    with start(queue_per_task=4) as live:
        one, other = ready(live), ready(live)
        running = held(live, gate)
        first = Later(lambda: live.ask(one))
        wait_until(lambda: waiting(live) == 3, "three rows wait")
        body = {"requests": [{"task": one, "inputs": TEXTS}, {"task": other, "inputs": TEXTS}]}
        both = Later(lambda: live.client.post("/v1/predict", json=body))
        wait_until(lambda: waiting(live) == 6, "the other's rows wait")
        gate.open()
        results = both.result().json()["results"]
        assert_error_body(results[0], 429)
        assert close(results[1]["outputs"], live.outputs(other))
        assert first.result().status_code == running.result().status_code == 200


# ---- deadlines


def test_a_deadline_that_passes(start, gate: Gate):
    with start() as live:
        task = ready(live)
        live.runtime.service.limits = replace(live.runtime.service.limits, timeout=0.2)
        answer = live.ask(task)
        error = assert_error(answer, 504, "0.2")
        assert error["type"] == "DeadlineExceededError"
        results = live.client.post("/v1/predict", json={"tasks": [task, "nobody"], "inputs": "w1"}).json()["results"]
        assert_error_body(results[0], 504)
        assert_error_body(results[1], 404)
        wait_until(lambda: waiting(live) == 0, "nothing waits")
        gate.open()
        live.wait_idle()


# ---- draining


def test_a_draining_server_finishes_what_it_has_and_takes_no_more(start, gate: Gate):
    with start() as live:
        task = ready(live)
        running = held(live, gate)
        queued = Later(lambda: live.ask(task))
        wait_until(lambda: waiting(live) == 3, "three rows wait")
        stopping = Later(lambda: live.runtime.engine.stop(60))
        wait_until(lambda: live.ask("base").status_code == 503, "the engine takes no more")
        answer = live.ask(task)
        error = assert_error(answer, 503, "shutting down")
        assert error["type"] == "ServiceUnavailableError"
        assert not running.done
        gate.open()
        stopping.result()
        assert running.result().status_code == 200
        assert len(queued.result().json()["outputs"]) == 3
        live.wait_idle()


# ---- deleting during requests


def test_requests_in_flight_finish_when_their_task_is_deleted(live: Live, gate: Gate):
    task = ready(live)
    files = live.runtime.registry.files(live.runtime.registry.task(task).stable)
    running, queued = held(live, gate, task), Later(lambda: live.ask(task))
    wait_until(lambda: waiting(live) == 3, "three rows wait")
    assert live.client.delete(f"/v1/tasks/{task}").status_code == 204
    assert_error(live.ask(task), 404)
    assert_error(live.client.get(f"/v1/tasks/{task}"), 404)
    # The same name again is another task: its answers are its own.
    assert live.upload(task, adapter_files(live.backbone, labels=5)).status_code == 201
    gate.open()
    assert [len(later.result().json()["outputs"][0]["scores"]) for later in (running, queued)] == [3, 3]
    assert len(live.outputs(task)[0]["scores"]) == 5
    live.wait_idle()
    wait_until(lambda: not files.exists(), "the files are gone")


def test_an_unload_waits_for_those_who_use_the_adapter(live: Live, gate: Gate):
    task = ready(live)
    running = held(live, gate, task)
    answer = live.client.post(f"/v1/tasks/{task}/unload")
    assert answer.status_code == 200
    gate.open()
    assert running.result().status_code == 200
    live.wait_idle()
    assert live.client.get(f"/v1/tasks/{task}").json()["residency"] == "disk"


def test_many_tasks_in_few_slots_while_they_come_and_go(start):
    with start(slots=2, queue_total=500) as live, Witness(live, live.add("witness", "prefix")):
        tasks = [live.add(method=method, labels=n) for n, method in enumerate(("lora", "mask", "bottleneck"), 2)]
        expected = {task: live.outputs(task) for task in tasks}

        def ask(task: str) -> None:
            with live.new_client() as client:
                for _ in range(10):
                    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": TEXTS})
                    assert answer.status_code == 200, answer.text
                    assert close(answer.json()["outputs"], expected[task])

        def disturb() -> None:
            with live.new_client() as client:
                for call in ("unload", "load", "pin", "unpin") * 4:
                    answer = client.post(f"/v1/tasks/{tasks[0]}/{call}")
                    assert answer.status_code == 200, answer.text

        at_once(*(lambda task=task: ask(task) for task in tasks * 2), disturb)
        live.wait_idle()


# ---- faults inside


def test_a_fault_of_the_model_is_its_own_requests_alone(live: Live, monkeypatch):
    good, bad = ready(live), ready(live, labels=5)
    expected = live.outputs(good)
    run = Runner._run

    def breaking(runner, entries):
        if any(entry.adapter.head is not None and entry.adapter.head.num_labels == 5 for entry in entries):
            raise RuntimeError("out of everything: secret detail")
        return run(runner, entries)

    monkeypatch.setattr(Runner, "_run", breaking)
    answer = live.ask(bad)
    assert_error(answer, 500)
    assert "secret" not in answer.text
    results = live.client.post("/v1/predict", json={"tasks": [good, bad, "base"], "inputs": TEXTS}).json()["results"]
    assert ["error" in result for result in results] == [False, True, False]
    assert close(results[0]["outputs"], expected)
    monkeypatch.undo()
    assert live.ask(bad).status_code == 200
    live.wait_idle()


def test_a_fault_outside_the_model_has_the_one_shape(live: Live, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(live.runtime.registry, "tasks", broken)
    answer = live.client.get("/v1/tasks")
    assert_error(answer, 500)
    assert "secret" not in answer.text

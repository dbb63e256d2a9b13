"""Overload over real HTTP: what is refused, how cheaply, and what callers say of their time."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from manyhats.backbone import Tokenizer
from manyhats.engine.engine import Engine

from tests.api.live import Gate, Live, assert_error
from tests.api.test_pressure import Later, held, post, ready, waiting
from tests.waiting import wait_until

Start = Callable[..., AbstractContextManager[Live]]


@pytest.fixture
def tokenised(monkeypatch) -> list[int]:
    """How many texts each call of the tokenizer had."""
    calls: list[int] = []
    encode = Tokenizer.encode

    def counted(tokenizer: Tokenizer, texts: Any, max_tokens: int) -> Any:
        calls.append(len(texts))
        return encode(tokenizer, texts, max_tokens)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    return calls


# ---- refusals


def test_what_is_refused_is_not_tokenised(start: Start, gate: Gate, tokenised: list[int]) -> None:
    with start(queue_per_task=4) as live:
        task = ready(live)
        running = held(live, gate)
        first = Later(lambda: live.ask(task))
        wait_until(lambda: waiting(live) == 3, "three rows wait")
        before = len(tokenised)
        answer = live.ask(task, ["w1"] * 200)
        assert_error(answer, 429, "200 would join", "at most 4")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        body = {"requests": [{"task": task, "inputs": ["w1"] * 50}] * 2}
        results = live.client.post("/v1/predict", json=body).json()["results"]
        assert [result["error"]["code"] for result in results] == [429, 429]
        assert len(tokenised) == before
        gate.open()
        assert [later.result().status_code for later in (running, first)] == [200, 200]
        live.wait_idle()
        assert not live.runtime.engine._admission.reserved
        assert not live.runtime.engine._admission._of_tenant


def test_room_is_given_back_where_a_request_fails_before_the_queue(start: Start) -> None:
    with start(queue_per_task=4) as live:
        task = ready(live)
        for _ in range(6):
            assert_error(live.ask(task, "w1 " * 5000, truncate=False), 400)  # too long, as the tokenizer finds
        assert live.ask(task).status_code == 200
        live.wait_idle()
        admission = live.runtime.engine._admission
        assert (admission.reserved, admission.total, admission._of_tenant) == (0, 0, {})


# ---- deadlines


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", "1_0", "", "1;2"])
def test_a_time_that_is_none_is_refused(start: Start, given: str) -> None:
    with start() as live:
        answer = live.client.post("/v1/tasks/base/predict", json={"inputs": "w1"}, headers={"X-Request-Timeout": given})
        error = assert_error(answer, 400, "seconds above 0")
        assert error["param"] == "X-Request-Timeout"


@pytest.mark.parametrize("given", [0, -1, "1", True, 1e9])
def test_a_time_in_the_body_that_is_none_is_refused(start: Start, given: Any) -> None:
    with start() as live:
        answer = live.client.post("/v1/tasks/base/predict", json={"inputs": "w1", "timeout": given})
        assert assert_error(answer, 400)["param"] == "timeout"


@pytest.mark.parametrize("where", ["header", "body", "many", "embeddings"])
def test_what_is_too_late_gets_504_and_never_runs(start: Start, gate: Gate, where: str) -> None:
    with start() as live:
        task = ready(live, kind="embed") if where == "embeddings" else ready(live)
        running = held(live, gate)
        headers = {"X-Request-Timeout": "0.2"} if where == "header" else {}
        timeout = {} if where == "header" else {"timeout": 0.2}
        path, body = {
            "many": ("/v1/predict", {"tasks": [task], "inputs": "w1"}),
            "embeddings": ("/v1/embeddings", {"model": task, "input": "w1"}),
        }.get(where, (f"/v1/tasks/{task}/predict", {"inputs": "w1"}))
        answer = live.client.post(path, json=body | timeout, headers=headers)
        if where == "many":
            (result,) = answer.json()["results"]
            assert result["error"]["code"] == 504
        else:
            assert_error(answer, 504, "within the time that the request gives")
        gate.open()
        assert running.result().status_code == 200
        live.wait_idle()
        assert len(gate.batches) == 1  # the held one's alone


def test_more_time_than_the_server_allows_means_no_more(start: Start, gate: Gate) -> None:
    with start(request_timeout=0.3) as live:
        running = held(live, gate)
        answer = live.client.post(
            "/v1/tasks/base/predict", json={"inputs": "w1"}, headers={"X-Request-Timeout": "3600"}
        )
        assert_error(answer, 504, "within 0.3 s")
        gate.open()
        running.result()


def test_a_time_that_suffices(start: Start) -> None:
    with start() as live:
        task = ready(live)
        body = {"inputs": "w1", "timeout": 30}
        answer = live.client.post(f"/v1/tasks/{task}/predict", json=body, headers={"X-Request-Timeout": "30.5"})
        assert answer.status_code == 200


# ---- clients


def test_one_client_has_so_many_connections(start: Start) -> None:
    with start(max_client_connections=3) as live:
        live.client.close()
        kept = [socket.create_connection((live.host, live.port)) for _ in range(3)]
        wait_until(lambda: len(live.limits.open) == 3, "three are open")
        with live.new_client() as client:
            answer = client.get("/healthz")
        assert_error(answer, 429, "3 connections", "max_client_connections")
        assert answer.headers["retry-after"] == "1"
        transport = httpx.HTTPTransport(local_address="127.0.0.9")
        with httpx.Client(base_url=f"http://{live.host}:{live.port}", transport=transport) as other:
            assert other.get("/healthz").status_code == 200
        kept.pop().close()
        wait_until(lambda: len(live.limits.open) <= 2, "one has left")
        with live.new_client() as client:
            assert client.get("/healthz").status_code == 200
        for one in kept:
            one.close()
        wait_until(lambda: not live.limits.open and not live.limits.by_client, "all have left")
        live.client = live.new_client()


def test_requests_know_their_client(start: Start, gate: Gate) -> None:
    """The address, or what a trusted proxy says that it is; of IPv6 the network."""
    with start() as live, live.new_client() as client:
        running = held(live, gate)
        proxied = [
            Later(lambda given=given: ask_base(client, {"X-Forwarded-For": given}))
            for given in ("203.0.113.7", "2001:db8:1:2:3::4")
        ]
        wait_until(lambda: waiting(live) == 2, "both wait")
        tenants = {request.tenant for request in live.runtime.engine._unfinished}
        assert tenants == {"127.0.0.1", "203.0.113.7", "2001:db8:1:2::/64"}
        gate.open()
        assert {later.result() for later in (*proxied,)} == {200}
        running.result()
        live.wait_idle()


def test_a_flood_has_a_window_while_somebody_light_is_there(start: Start, gate: Gate, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "window", 6)
    every = httpx.Limits(max_connections=None)
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.9")
    with start() as live, live.new_client(limits=every) as flood, live.new_client(transport=elsewhere) as light:
        gate.open()
        assert ask_base(light) == 200
        for _ in range(5):
            assert live.ask("base", ["w1"] * 200).status_code == 200
        gate.close()
        many = [Later(lambda: ask_base(flood)) for _ in range(16)]
        wait_until(lambda: live.turns.waiting == 10, "all but a window's requests wait for their turns")
        one = Later(lambda: ask_base(light))
        wait_until(lambda: "127.0.0.9" in live.turns._clients, "the light client's has come")
        assert live.turns.waiting == 10  # and does not wait
        gate.open()
        assert {later.result() for later in (*many, one)} == {200}
        wait_until(lambda: not live.turns._clients, "every turn has ended")


def test_who_gives_up_leaves_the_line(start: Start, gate: Gate, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "window", 1)
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.9")
    with start() as live, live.new_client() as flood, live.new_client(transport=elsewhere) as light:
        gate.open()
        assert ask_base(light) == 200
        assert live.ask("base", ["w1"] * 200).status_code == 200
        gate.close()
        first = Later(lambda: ask_base(flood))
        gate.wait_for(1)
        assert_error(  # whose time is over before its turn
            flood.post("/v1/tasks/base/predict", json={"inputs": "w1"}, headers={"X-Request-Timeout": "0.2"}), 504
        )
        request = post("/v1/tasks/base/predict", {"inputs": "w1"})
        with socket.create_connection((live.host, live.port)) as connection:
            connection.sendall(request)
            wait_until(lambda: live.turns.waiting == 1, "it waits for its turn")
        wait_until(lambda: live.turns.waiting == 0, "it has left")
        gate.open()
        assert first.result() == 200
        wait_until(lambda: not live.turns._clients, "every turn has ended")


def ask_base(client: httpx.Client, headers: dict[str, str] | None = None) -> int:
    """The status of a small question."""
    return client.post("/v1/tasks/base/predict", json={"inputs": "w1"}, headers=headers).status_code

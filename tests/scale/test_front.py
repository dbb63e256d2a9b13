"""What takes the requests, in front of replicas that a test plays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from manyhats.scale import front as front_module
from manyhats.scale.exchange import Asked, Begun
from manyhats.scale.front import Front, Limits, Transport

LIMITS = Limits(max_body=1000, max_upload=10 << 20, request_timeout=30.0)


class Lost(Exception):
    """A replica ended."""


class Full(Exception):
    """Too many wait."""


class Replicas:
    """Replicas that fail as often as they are told, and then answer. `begins`: part of an answer comes first."""

    def __init__(self, *failures: Exception, begins: str = "") -> None:
        self.failures = list(failures)
        self.begins = begins
        self.asked: list[Asked] = []
        self.stored: list[bytes] = []

    async def ask(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
        self.asked.append(asked)
        if self.failures:
            if self.begins:
                yield Begun(200, [(b"content-type", self.begins.encode())], b"data: 1\n\n", True)
            raise self.failures.pop(0)
        yield Begun(200, [(b"content-type", b"text/plain")], b"well, ", True)
        yield b"done"

    async def store(self, part: bytes) -> Any:
        self.stored.append(part)
        return len(self.stored)

    def front(self, limits: Limits = LIMITS) -> Front:
        return Front(Transport(self.ask, self.store, lost=(Lost,), full=(Full,)), limits)


def send(replicas: Replicas, method: str, path: str, limits: Limits = LIMITS, **given: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(replicas.front(limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **given)

    return asyncio.run(run())


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    return body["error"]


def test_an_answer_is_passed_on_with_the_task_that_its_request_names() -> None:
    replicas = Replicas()
    answer = send(replicas, "POST", "/v1/tasks/spam/predict", json={"inputs": ["a"]})
    assert (answer.status_code, answer.text) == (200, "well, done")
    assert send(replicas, "POST", "/v1/embeddings", json={"model": "topic", "input": "a"}).status_code == 200
    assert send(replicas, "GET", "/v1/tasks").status_code == 200
    assert [asked.task for asked in replicas.asked] == ["spam", "topic", None]
    assert json.loads(replicas.asked[0].body) == {"inputs": ["a"]}


def test_what_a_lost_replica_held_is_asked_once_more() -> None:
    replicas = Replicas(Lost())
    assert send(replicas, "POST", "/v1/tasks/spam/predict", json={}).text == "well, done"
    assert len(replicas.asked) == 2
    twice = Replicas(Lost(), Lost())
    answer = send(twice, "POST", "/v1/tasks/spam/predict", json={})
    assert answer.status_code == 503
    assert "two replicas ended" in error_of(answer)["message"]
    assert len(twice.asked) == 2


def test_a_change_is_never_asked_twice() -> None:
    replicas = Replicas(Lost())
    answer = send(replicas, "PUT", "/v1/tasks/spam/aliases/stable", json={"version": 2})
    assert answer.status_code == 503
    assert "look, then try again" in error_of(answer)["message"]
    assert len(replicas.asked) == 1


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    events = Replicas(Lost(), begins="text/event-stream")
    answer = send(events, "POST", "/v1/completions", json={"model": "spam", "stream": True})
    first, last = answer.text.strip().split("\n\n")
    assert first == "data: 1"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503
    assert len(events.asked) == 1
    with pytest.raises(ConnectionError, match="in the middle of its answer"):
        send(Replicas(Lost(), begins="application/zip"), "GET", "/v1/tasks/spam/versions/1/download")


def test_too_many_waiting_requests() -> None:
    answer = send(Replicas(Full("2048 wait")), "POST", "/v1/tasks/spam/predict", json={})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"


def test_no_replica_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Replicas):
        async def ask(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
            await asyncio.Event().wait()
            yield b""

    monkeypatch.setattr(front_module, "_GRACE", 0.0)
    answer = send(Silent(), "GET", "/v1/tasks", Limits(1000, 1000, request_timeout=0.05))
    assert answer.status_code == 504


def test_bodies_within_their_limits() -> None:
    replicas = Replicas()
    answer = send(replicas, "POST", "/v1/tasks/spam/predict", content=b"a" * 1001)
    assert answer.status_code == 413
    assert "max_body" in error_of(answer)["message"]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"a" * 100

    assert send(replicas, "POST", "/v1/tasks/spam/predict", content=chunks()).status_code == 413
    assert not replicas.asked


def test_a_large_upload_goes_through_the_store_in_parts() -> None:
    replicas = Replicas()
    piece = bytes(range(256)) * 256  # 64 KiB

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(150):
            yield piece

    assert send(replicas, "POST", "/v1/tasks/spam/versions", content=pieces()).status_code == 200
    assert b"".join(replicas.stored) == 150 * piece
    assert max(map(len, replicas.stored)) < front_module._PART + len(piece)
    (asked,) = replicas.asked
    assert (asked.task, asked.body, asked.parts) == ("spam", b"", tuple(range(1, len(replicas.stored) + 1)))


def test_where_nothing_is_shared_tasks_do_not_change() -> None:
    replicas = Replicas()
    limits = Limits(1000, 1000, 30.0, read_only="set database_url")
    answer = send(replicas, "DELETE", "/v1/tasks/spam", limits)
    assert (answer.status_code, error_of(answer)["message"]) == (409, "set database_url")
    assert send(replicas, "POST", "/v1/tasks/spam/predict", limits, json={}).status_code == 200


def test_the_lifespan_has_nothing_to_do() -> None:
    async def run() -> list[str]:
        messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
        sent: list[str] = []

        async def receive() -> Any:
            return next(messages)

        async def note(message: Any) -> None:
            sent.append(message["type"])

        await Replicas().front()({"type": "lifespan"}, receive, note)
        return sent

    assert asyncio.run(run()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

"""Clients that are slow, silent or too many, on real sockets. The tests say how much time passes.

Also the canary of what is used of uvicorn beyond its settings."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import httpx
import pytest
from manyhats.api import server as server_module
from manyhats.api.app import create_app
from manyhats.api.connection import Connection, ConnectionLimits
from manyhats.api.server import connection_capacity, create_server

from tests.api.live import PATIENCE, TEXTS, Live, assert_error_body, raw, wait_until

PREDICT = "/v1/tasks/base/predict"
HEAD = b"POST /v1/tasks/base/predict HTTP/1.1\r\nHost: localhost\r\n"


def of(live: Live, client: socket.socket) -> Connection:
    """The server's side of a connection, once it is there."""
    name = client.getsockname()

    def found() -> Connection | None:
        there = [*live.limits.open, *live.limits.closing]
        return next((one for one in there if one.client == name), None)

    return wait_until(found, "the connection is there")


def on_the_loop(connection: Connection, job: Any, *arguments: Any) -> None:
    """Runs something where the server runs, and waits for it."""
    done: list[bool] = []

    def run() -> None:
        job(*arguments)
        done.append(True)

    connection.loop.call_soon_threadsafe(run)
    wait_until(lambda: done, "the server has done it")


def passes(live: Live, connection: Connection, *seconds: float) -> None:
    """So much time passes for the server."""
    for some in seconds:
        on_the_loop(connection, live.limits.sweep, some)


def sent(connection: Connection, client: socket.socket, data: bytes) -> None:
    """Sends something, and waits until the server has it."""
    before = connection.received
    client.sendall(data)
    wait_until(lambda: connection.received >= before + len(data), "the data has come")


def answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of what is received until the end."""
    client.settimeout(PATIENCE)
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, json.loads(body)


def refused(client: socket.socket, status: int, *patterns: str) -> dict[str, str]:
    """The headers of an error in the one shape, behind which the connection ends."""
    found, headers, body = answer(client)
    assert found == status
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert_error_body(body, status, *patterns)
    return headers


# ---- time


@pytest.mark.parametrize("started", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_comes_too_slowly(live: Live, started: bytes):
    with raw(live, b"") as client:
        connection = of(live, client)
        sent(connection, client, started)
        for _ in range(5):  # a byte now and then does not help
            passes(live, connection, 1.5)
            sent(connection, client, b"x")
        passes(live, connection, 3.0)
        refused(client, 408, "header_timeout")
    wait_until(lambda: connection not in live.limits.closing, "it is forgotten")


def test_who_says_nothing_is_closed_without_a_word(live: Live):
    with raw(live, b"") as client:
        connection = of(live, client)
        passes(live, connection, 6.0)
        assert not connection.transport.is_closing()
        passes(live, connection, 5.0)
        assert client.recv(100) == b""


def test_a_slow_second_request_of_a_connection(live: Live):
    with raw(live, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        connection = of(live, client)
        sent(connection, client, b"GET /hea")
        passes(live, connection, 1.0, 11.0)
        refused(client, 408, "header_timeout")


def test_a_body_that_comes_too_slowly(live: Live, caplog: pytest.LogCaptureFixture):
    part = b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n'
    for kind, path, started in (
        ("application/json", PREDICT, b"{"),
        ("multipart/form-data; boundary=x", "/v1/tasks/slow/versions", part),
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        with raw(live, head.encode() + started) as client:
            connection = of(live, client)
            passes(live, connection, 0.5)
            for _ in range(10):
                sent(connection, client, b" ")
                passes(live, connection, 1.5)
            assert not connection._closing
            passes(live, connection, 6.0)
            refused(client, 408, r"too slowly: \d+ bytes", "body_timeout")
        wait_until(lambda server=connection: not server.tasks, "its request has ended")
    live.wait_idle()
    assert live.staged == []
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_large_body_over_a_slow_line_may_take_its_time(live: Live):
    body = json.dumps({"inputs": TEXTS}).encode()
    size = 40 * 4096  # ten times longer than body_timeout at the least rate
    with raw(live, HEAD + b"Content-Length: %d\r\n\r\n" % (size + len(body))) as client:
        connection = of(live, client)
        passes(live, connection, 0.1)
        for _ in range(40):
            sent(connection, client, b" " * 4096)
            passes(live, connection, 1.0)
        sent(connection, client, body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_what_cannot_be_a_body_makes_its_time_no_longer(start):
    """Chunks may carry what nobody counts."""
    with start(max_body=1000) as live, raw(live, HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as client:
        connection = of(live, client)
        passes(live, connection, 0.1)
        for _ in range(20):
            sent(connection, client, b"1;" + b"x" * 8000 + b"\r\n \r\n")
            passes(live, connection, 0.5)
        assert not connection._closing
        passes(live, connection, 12.0)
        refused(client, 408, "too slowly")


def test_the_time_in_which_nothing_is_read_is_not_the_clients(live: Live):
    with raw(live, HEAD + b"Content-Length: 100\r\n\r\n{") as client:
        connection = of(live, client)

        def pause() -> None:
            connection.flow.pause_reading()
            live.limits.sweep(30.0)

        for _ in range(5):
            on_the_loop(connection, pause)
        assert not connection._closing
        on_the_loop(connection, connection.flow.resume_reading)
        passes(live, connection, 30.0)
        refused(client, 408)


def test_the_rest_of_a_body_that_nobody_wants_does_not_hold_a_connection(start):
    with start(max_body=1000) as live, raw(live, HEAD + b"Content-Length: 100000\r\n\r\n{") as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
        connection = of(live, client)
        sent(connection, client, b" ")  # which ends uvicorn's own timer
        passes(live, connection, 1.0, 25.0)
        wait_until(lambda: connection not in live.limits.open, "it is closed")


def test_times_are_no_longer_than_a_request_may_take(start):
    started = HEAD + b"Content-Length: 9\r\n\r\n{"
    with start(request_timeout=3) as live, raw(live, b"POST ") as slow_head, raw(live, started) as slow_body:
        several = [of(live, slow_head), of(live, slow_body)]
        wait_until(lambda: several[1].cycle, "the request has started")
        passes(live, several[0], 0.1, 1.0)
        assert not any(one._closing for one in several)
        passes(live, several[0], 3.0)
        refused(slow_head, 408)
        refused(slow_body, 408)


def test_who_does_not_read_the_answer_is_cut_off(live: Live):
    body = json.dumps({"inputs": ["w1 " * 20] * 1500, "parameters": {"pooling": "none"}}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        client.connect((live.host, live.port))
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        connection = of(live, client)
        wait_until(lambda: connection.transport.get_write_buffer_size() > 0, "an answer waits")
        wait_until(
            lambda: connection.cycle.response_complete or connection.flow.write_paused, "it waits for the client"
        )
        passes(live, connection, 1.0, 30.0)
        assert not connection.transport.is_closing()
        passes(live, connection, 31.0)
        assert connection.transport.is_closing()
    live.wait_idle()


# ---- number


def test_one_connection_too_many_gets_a_clear_answer(start, caplog: pytest.LogCaptureFixture):
    with start(max_connections=3) as live:
        live.client.close()
        wait_until(lambda: not live.limits.open, "nobody is there")
        with raw(live, b"") as one, raw(live, b"") as two, live.new_client() as client:
            for quiet in (one, two):
                of(live, quiet)
            assert client.get("/healthz").status_code == 200
            with raw(live, b"") as early:  # before it has asked
                assert refused(early, 503, "all 3 connections", "try again")["retry-after"] == "1"
            with live.new_client() as more:
                for _ in range(3):
                    late = more.post(PREDICT, json={"inputs": TEXTS})
                    assert late.status_code == 503
                    assert late.headers["retry-after"] == "1"
                    assert_error_body(late.json(), 503, "all 3 connections")
                assert client.get("/healthz").status_code == 200  # who is there stays
                one.close()
                wait_until(lambda: len(live.limits.open) < 3, "one has gone")
                assert more.post(PREDICT, json={"inputs": TEXTS}).status_code == 200
        assert "max_connections" in caplog.text
        live.client = live.new_client()


def test_who_was_refused_does_not_stay(start):
    with start(max_connections=1) as live:
        live.client.get("/healthz")
        with raw(live, b"") as client:
            connection = of(live, client)
            wait_until(lambda: connection in live.limits.closing, "it was refused")
            sent = client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert sent
            passes(live, connection, 0.2)
            assert not connection.transport.is_closing()
            passes(live, connection, 0.9)
            assert connection.transport.is_closing()
        live.limits.closing.update(range(ConnectionLimits.MAX_CLOSING))  # type: ignore[arg-type]  # many are
        with raw(live, b"") as another:
            refused(another, 503)
        live.limits.closing.clear()


@pytest.mark.parametrize(
    ("files", "capacity"),
    [(1024, 608), (256, 32), (64, 16), (20_000, 8192), (1 << 20, 8192), (server_module.resource.RLIM_INFINITY, 8192)],
)
def test_the_limit_on_files_says_how_many_there_may_be(
    monkeypatch: pytest.MonkeyPatch, files: int, capacity: int
) -> None:
    monkeypatch.setattr(server_module.resource, "getrlimit", lambda _: (files, files))
    assert connection_capacity() == capacity


def test_few_are_taken_at_once_and_many_may_wait(live: Live):
    """asyncio takes as many as its backlog says before any of them is looked at."""
    assert create_server(create_app(live.runtime), live.runtime.settings).config.backlog == 32
    several = [raw(live, b"") for _ in range(300)]
    for one in several:
        of(live, one)
        one.close()
    wait_until(lambda: len(live.limits.open) < 3, "all have gone")


# ---- no HTTP


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (HEAD + b"Content-Length: x\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (64 << 10), 431),
    ],
)
def test_what_is_no_http_gets_the_one_shape(live: Live, data: bytes, status: int):
    with raw(live, data) as client:
        refused(client, status)


def test_an_upgrade_is_not_followed(live: Live):
    headers = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    assert live.client.get("/healthz", headers=headers).status_code == 200
    assert isinstance(live.client, httpx.Client)

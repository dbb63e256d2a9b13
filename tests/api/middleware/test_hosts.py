"""Which names a server answers to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhats.api.exposure import allowed_hosts
from manyhats.api.middleware.hosts import host_of
from manyhats.settings import Settings

from tests.api.live import Live, assert_error, raw
from tests.api.middleware.asgi import ask, gate, scope


def status(allowed: tuple[str, ...] | None, host: str | None) -> int:
    headers = {} if host is None else {"host": host}
    return ask(gate(hosts=allowed), scope("GET", "/", **headers)).status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST.",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8000",
        "10.0.0.5",
        "10.0.0.5:80",
        None,
    ],
)
def test_a_keyless_server_answers_to_this_machines_names_and_to_its_own_address(host: str | None) -> None:
    assert status(allowed_hosts(Settings()), host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example", "x", "", "127.0.0.2",
        "localhost@evil.example", "localhost:8000:1", "[::1", "[::2]", "10.0.0.6", "localhost, evil.example", "0.0.0.0",
        "127.1", "localhost\x00", "é",
    ],
)  # fmt: skip
def test_any_other_name_is_refused(host: str) -> None:
    assert status(allowed_hosts(Settings()), host) == 421


@pytest.mark.parametrize(
    ("settings", "host", "expected"),
    [
        ({"api_keys": "k"}, "anything.example", 200),
        ({"admin_keys": "k"}, "anything.example", 421),  # everybody may ask
        ({"api_keys": "k", "allowed_hosts": "hats.example"}, "anything.example", 421),
        ({"api_keys": "k", "allowed_hosts": "hats.example"}, "localhost:8000", 200),
        ({"allowed_hosts": "hats.example, *.Hats.Test"}, "HATS.example:443", 200),
        ({"allowed_hosts": "hats.example, *.Hats.Test"}, "a.b.hats.test", 200),
        ({"allowed_hosts": "hats.example, *.Hats.Test"}, "hats.test", 421),
        ({"allowed_hosts": "hats.example, *.Hats.Test"}, "evilhats.test", 421),
        ({"allowed_hosts": "*"}, "anything.example", 200),
        ({"host": "hats.local"}, "hats.local:8000", 200),
        ({"host": "::2"}, "[::2]:8000", 200),
        ({"host": "0.0.0.0"}, "anything.example", 200),  # with a warning at the start
        ({"host": "0.0.0.0", "allowed_hosts": "hats.example"}, "anything.example", 421),
        ({"host": "0.0.0.0", "allowed_hosts": "hats.example"}, "10.0.0.5", 200),  # a probe by address
    ],
)
def test_the_settings_say_which(settings: dict[str, Any], host: str, expected: int) -> None:
    assert status(allowed_hosts(Settings(**settings)), host) == expected


def test_a_host_is_read_without_its_port() -> None:
    expected = {"a.B": "a.b", "a:": "a", "[A::1]:1": "[a::1]", "a:b": None, "a:1:2": None, "[::1]x": None, "": ""}
    assert {header: host_of(header) for header in expected} == expected


def test_the_server_refuses_a_rebound_name(live: Live):
    task = live.add()
    for method, path in (("GET", "/v1/tasks"), ("DELETE", f"/v1/tasks/{task}"), ("GET", "/"), ("POST", "/v1/predict")):
        answer = live.client.request(method, path, headers={"Host": "evil.example", "Origin": "http://evil.example"})
        error = assert_error(answer, 421, "'evil.example'", "allowed_hosts")
        assert (error["type"], error["param"]) == ("MisdirectedRequestError", "Host")
    assert live.ask(task, "w1").status_code == 200
    body = json.dumps({"inputs": "w1"}).encode()
    with raw(live, b"POST /v1/tasks/base/predict HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as old:
        assert old.recv(100).startswith(b"HTTP/1.1 200")

"""HEAD, and slashes that say nothing."""

from __future__ import annotations

import json

import pytest
from manyhats.api.app import create_app

from tests.api.live import Live, assert_error, raw
from tests.api.middleware.asgi import ask, gate, scope
from tests.api.test_errors import routes

GOING_ON = {"/metrics", "/v1/overview", "/v1/traffic"}  # whose figures are others when they are asked again


def test_head_is_answered_wherever_get_is(live: Live):
    task = live.add()
    values = {"{task}": task, "{number}": "1", "{model}": "base", "{model:path}": "base"}
    seen = 0
    for path, methods in routes(create_app(live.runtime)):
        allowed = sorted(methods | ({"HEAD"} if "GET" in methods else set()))
        for name, value in values.items():
            path = path.replace(name, value)
        answer = live.client.head(path)
        if "GET" not in methods:
            assert answer.status_code == 405
            assert answer.headers["allow"].split(", ") == allowed, path
            continue
        seen += 1
        plain = live.client.get(path)
        assert (answer.status_code, answer.content) == (plain.status_code, b"")
        for header in ("content-type", "content-length", "content-disposition"):
            if "length" not in header or path not in GOING_ON:
                assert answer.headers.get(header) == plain.headers.get(header), (path, header)
        if "POST" not in allowed:
            assert live.client.post(path).headers["allow"].split(", ") == allowed, path
    assert seen > 10
    assert live.client.head("/v1/tasks/none").status_code == 404
    assert live.client.head("/nowhere").status_code == 404
    live.wait_idle()  # a download of which only the head was asked gives its version back


def test_of_a_head_only_the_beginning_is_sent() -> None:
    asked = ask(gate(), scope("HEAD", "/"))
    assert asked.scope is not None
    assert asked.scope["method"] == "GET"
    assert [m.get("body") for m in asked.sent] == [None, b""]
    assert asked.sent[-1]["more_body"] is False
    assert len(ask(gate(), scope("GET", "/")).sent) == 3


@pytest.mark.parametrize(
    ("path", "plain"),
    [("/", "/"), ("//", "/"), ("/a/", "/a"), ("/a//", "/a"), ("//a/b", "/a/b"), ("/a//b/", "/a/b"), ("/a/b", "/a/b")],
)
def test_slashes_that_say_nothing_are_left_out(path: str, plain: str) -> None:
    found = ask(gate(), scope("GET", path)).scope
    assert found is not None
    assert found["path"] == plain


def test_a_slash_at_the_end_is_no_redirect(live: Live):
    body = {"inputs": "w1 w2"}
    for path in ("/v1/tasks/base/predict/", "/v1//tasks/base/predict", "/v1/tasks/base/predict//"):
        answer = live.client.post(path, json=body)
        assert answer.status_code == 200, path
        assert answer.history == []
    for path in ("/v1/tasks/", "/v1/models/", "/healthz/", "/v1/tasks/base/"):
        assert live.client.get(path).status_code == 200, path
    assert_error(live.client.get("/v1/nowhere/"), 404)
    # A proxy's own words are in no answer.
    data = json.dumps(body).encode()
    head = b"POST /v1/tasks/base/predict/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n"
    with raw(live, head + b"Content-Length: %d\r\n\r\n%s" % (len(data), data)) as proxied:
        assert proxied.recv(100).startswith(b"HTTP/1.1 200")


def test_no_route_ends_in_a_slash(live: Live):
    """Nothing would find it."""
    assert [path for path, _ in routes(create_app(live.runtime)) if path.endswith("/") and path != "/"] == []

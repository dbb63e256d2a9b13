"""Probes by other servers' names: open to all, and true to the server's state."""

from __future__ import annotations

import manyhats._version
import pytest

from tests.api.live import Live, assert_error

PROBES = [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping"), ("HEAD", "/health")]


@pytest.mark.parametrize(("method", "path"), PROBES)
def test_they_say_whether_it_can_answer(live: Live, monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> None:
    answer = live.client.request(method, path)
    assert (answer.status_code, answer.content) == (200, b"")
    monkeypatch.setattr(live.runtime, "state", "draining")
    answer = live.client.request(method, path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    if method != "HEAD":
        assert_error(answer, 503, "draining")


def test_the_version(live: Live) -> None:
    assert live.client.get("/version").json() == {"version": manyhats._version.__version__}

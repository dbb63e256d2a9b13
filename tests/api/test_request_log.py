"""One line a request, whatever became of it; under the id that its caller has."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from manyhats.observability import sinks
from manyhats.observability.logs import SafeFormatter

from tests import tiny
from tests.api.live import Live, raw, serving, wait_until
from tests.api.test_server import of, passes

Start = Callable[..., AbstractContextManager["Logged"]]


class Logged:
    """A server whose log of requests is read as it is written."""

    def __init__(self, live: Live, out: io.BytesIO) -> None:
        self.live = live
        self._out = out

    def lines(self) -> list[dict[str, Any]]:
        """What has been written so far."""
        return [json.loads(line) for line in self._out.getvalue().splitlines(keepends=True) if line.endswith(b"\n")]

    def line(self, request_id: str) -> dict[str, Any]:
        """The only line of a request."""
        wait_until(lambda: any(line["id"] == request_id for line in self.lines()), f"a line for {request_id}")
        (found,) = [line for line in self.lines() if line["id"] == request_id]
        return found


@pytest.fixture
def logged(base_folder: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a server with a log of requests."""

    @contextmanager
    def start(family: str = "bert", **settings: Any) -> Iterator[Logged]:
        out = io.BytesIO()
        monkeypatch.setattr(sinks, "sys", SimpleNamespace(stdout=SimpleNamespace(buffer=out)))
        backbone = tiny.load(base_folder(family))
        with serving(backbone, tmp_path / family, request_log="stdout", **settings) as live:
            yield Logged(live, out)

    return start


def ask(live: Live, path: str, body: Any, request_id: str, **headers: str) -> int:
    return live.client.post(path, json=body, headers={"X-Request-Id": request_id, **headers}).status_code


def test_every_request_has_its_line(logged: Start) -> None:
    with logged() as log:
        live = log.live
        task, other = live.add("one"), live.add("two", "mask")
        path = f"/v1/tasks/{task}/predict"
        assert ask(live, path, {"inputs": ["w1 w2", "w3"]}, "good") == 200
        line = log.line("good")
        version = live.runtime.registry.task(task).versions[-1]
        expected = {
            "verb": "POST", "route": "/v1/tasks/{task}/predict", "path": path, "status": 200, "tenant": "", "key": "",
            "task": task, "version": 1, "sha256": version.sha256, "method": "lora", "kind": "classify", "inputs": 2,
            "output_tokens": 0,
        }  # fmt: skip
        assert line.items() >= expected.items()
        assert line["input_tokens"] == 4 + 3
        assert line["batch"].keys() == {"id", "sequences", "tasks"}
        parts = sum(line[f"{part}_ms"] for part in ("queue", "load", "compute", "render"))
        assert 0 < line["compute_ms"] < parts <= line["total_ms"]
        assert "error" not in line
        assert "w1" not in json.dumps(line)

        assert ask(live, "/v1/predict", {"tasks": [task, other, "nobody"], "inputs": "w1"}, "many") == 200
        items = log.line("many")["items"]
        assert [item["task"] for item in items] == [task, other, "nobody"]
        assert [item.get("error") for item in items] == [None, None, "NotFound"]

        assert ask(live, path, {"inputs": "w1", "parameters": {"pooling": "x"}}, "wrong") == 400
        assert log.line("wrong").items() >= {"status": 400, "error": "BadRequestError", "task": task}.items()
        assert ask(live, "/v1/tasks/none/predict", {"inputs": "w1"}, "none") == 404
        assert log.line("none").items() >= {"status": 404, "task": "none"}.items()
        assert ask(live, path, {"inputs": 1}, "shape") == 400
        assert log.line("shape").items() >= {"status": 400, "error": "BadRequestError"}.items()
        live.client.get("/v1/tasks?search=secret", headers={"X-Request-Id": "list"})
        line = log.line("list")
        assert line.items() >= {"route": "/v1/tasks", "path": "/v1/tasks", "status": 200}.items()
        assert "secret" not in json.dumps(line)
        live.client.get(f"/v1/tasks/{task}", headers={"X-Request-Id": "show"})
        assert log.line("show")["route"] == "/v1/tasks/{task}"
        assert live.client.head("/healthz", headers={"X-Request-Id": "head"}).status_code == 200
        assert log.line("head").items() >= {"verb": "HEAD", "route": "/healthz"}.items()


def test_what_is_refused_early_has_one_too(logged: Start) -> None:
    with logged(api_keys="k", cors_origins="https://app.example", max_body=1000) as log:
        live, path = log.live, "/v1/predict"
        assert ask(live, path, {}, "origin", Origin="https://evil.example") == 403
        assert ask(live, path, {}, "type", **{"Content-Type": "text/plain"}) == 415
        assert ask(live, path, {"inputs": "w" * 2000}, "large") == 413
        assert ask(live, path, {}, "key") == 401
        assert live.client.get("/nowhere", headers={"X-Request-Id": "lost"}).status_code == 404
        assert live.client.delete("/healthz", headers={"X-Request-Id": "method"}).status_code == 405
        expected = {
            "origin": (403, "PermissionDeniedError"),
            "type": (415, "UnsupportedFormatError"),
            "large": (413, "TooLargeError"),
            "key": (401, "AuthenticationError"),
            "lost": (404, "NotFoundError"),
            "method": (405, "MethodNotAllowedError"),
        }
        for request_id, (status, error) in expected.items():
            line = log.line(request_id)
            assert (line["status"], line["error"]) == (status, error), line


def test_what_was_no_request_has_one_under_the_id_in_its_answer(logged: Start) -> None:
    with logged() as log, raw(log.live, b"no request at all\r\n\r\n") as connection:
        answer = connection.makefile("rb").read().decode()
        request_id = next(line.split()[1] for line in answer.splitlines() if line.lower().startswith("x-request-id"))
        line = log.line(request_id)
        assert line.items() >= {"verb": "", "path": "", "status": 400, "error": "BadRequestError"}.items()


def test_a_body_that_stops_coming_ends_its_own_request(logged: Start) -> None:
    with logged() as log:
        live = log.live
        head = (
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: slow\r\n"
        )
        with raw(live, head + b"Content-Length: 100\r\n\r\n{") as connection:
            server_side = of(live, connection)
            wait_until(lambda: server_side.cycle is not None, "the head was read")
            passes(live, server_side, 0.1, 30.0)
            answer = connection.makefile("rb").read().decode().lower()
        assert answer.startswith("http/1.1 408")
        assert "x-request-id: slow" in answer
        assert log.line("slow").items() >= {"status": 408, "error": "RequestTimeoutError"}.items()


def test_streams_have_their_id_and_their_line(logged: Start) -> None:
    with logged("llama", log_texts=True) as log:
        live = log.live
        body = {"inputs": "w1 w2", "parameters": {"stream": True, "max_new_tokens": 4, "ignore_eos": True}}
        with live.client.stream(
            "POST", "/v1/tasks/base/predict", json=body, headers={"X-Request-Id": "stream"}
        ) as answer:
            assert answer.headers["x-request-id"] == "stream"
            assert not any(line["id"] == "stream" for line in log.lines())
            answer.read()
        line = log.line("stream")
        assert line["output_tokens"] == 4
        assert line["texts"] == ["w1 w2"]
        assert len(line["outputs"]) == 1


def test_texts_stay_out_unless_they_are_wanted(logged: Start) -> None:
    with logged() as log:
        assert ask(log.live, "/v1/tasks/base/predict", {"inputs": "w1 w2 w3"}, "quiet") == 200
        line = log.line("quiet")
        assert not {"texts", "outputs"} & line.keys()
        assert "w1" not in json.dumps(line)


def test_a_failure_of_ours_is_logged_under_the_id(logged: Start, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    formatted: list[str] = []

    class Formatting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatted.append(SafeFormatter("%(message)s").format(record))

    handler = Formatting()
    logging.getLogger("manyhats").addHandler(handler)
    try:
        with logged() as log:
            monkeypatch.setattr(log.live.runtime.registry, "tasks", fails)
            assert log.live.client.get("/v1/tasks", headers={"X-Request-Id": "broken"}).status_code == 500
            assert log.line("broken").items() >= {"status": 500, "error": "InternalServerError"}.items()
    finally:
        logging.getLogger("manyhats").removeHandler(handler)
    assert any("[request broken]" in line for line in formatted)


def test_what_comes_behind_a_request_is_not_its_error(logged: Start) -> None:
    with logged() as log:
        first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: first\r\n\r\n"
        with raw(log.live, first + b"no request at all\r\n\r\n") as connection:
            answers = connection.makefile("rb").read()
        assert answers.count(b"HTTP/1.1 200") == answers.count(b"HTTP/1.1 400") == 1
        line = log.line("first")
        assert line["status"] == 200
        assert "error" not in line
        wait_until(lambda: any(line["status"] == 400 for line in log.lines()), "a line for the other")

"""Traces, as a receiver of OTLP gets them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from manyhats.errors import WrongSetting
from manyhats.observability import sinks, traces
from manyhats.observability.sinks import open_recorder
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.api.live import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """An OTLP receiver on a free port of this machine; `spans` has come so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    data = gzip.decompress(data)
                receiver.take(self.path, ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, request: ExportTraceServiceRequest) -> None:
        self.paths.add(path)
        for one in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in one.resource.attributes})
            for scope in one.scope_spans:
                self.spans += scope.spans

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds until what waits is sent
    running = Receiver()
    yield running
    running.close()


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


PREDICT = "POST /v1/tasks/{task}/predict"


def test_a_request_has_a_span_and_its_phases_below(start, receiver: Receiver) -> None:
    with start(otlp_endpoint=receiver.address) as live:
        task = live.add()
        live.runtime.adapter_cache.unload(live.runtime.registry.task(task).versions[-1].sha256)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "traced"}
        path = f"/v1/tasks/{task}/predict"
        assert live.client.post(path, json={"inputs": "w1 w2"}, headers=headers).status_code == 200
        wait_until(lambda: receiver.named(PREDICT) and receiver.named("render"), "the spans have come")
        (span,) = receiver.named(PREDICT)
        assert receiver.paths == {"/v1/traces"}
        assert span.trace_id.hex() == TRACE
        assert span.parent_span_id.hex() == PARENT
        assert span.kind == Span.SPAN_KIND_SERVER
        expected = {
            "http.request.method": "POST", "http.route": "/v1/tasks/{task}/predict", "url.path": path,
            "http.response.status_code": 200, "manyhats.request_id": "traced",
        }  # fmt: skip
        assert attributes(span) == expected
        below = {one.name: one for one in receiver.spans if one.parent_span_id == span.span_id}
        assert set(below) == {"load", "queue", "compute", "render"}
        for one in below.values():
            assert one.trace_id.hex() == TRACE
            assert attributes(one).items() >= {"manyhats.task": task, "manyhats.method": "lora"}.items()
            assert span.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
            assert one.end_time_unix_nano <= span.end_time_unix_nano + 1000  # rounding
        order = [below[name].start_time_unix_nano for name in ("load", "queue", "compute", "render")]
        assert order == sorted(order)
        assert attributes(below["compute"])["manyhats.batch.sequences"] == 1
        assert receiver.resources[0].items() >= {"service.name": "manyhats"}.items()


def test_each_request_is_traced_once_and_failures_say_so(start, receiver: Receiver, monkeypatch) -> None:
    """With OpenTelemetry's own variables, for which FastAPI has traces too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "hats")

    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    with start() as live:
        for _ in range(3):
            assert live.client.post("/v1/predict", json={"tasks": ["base", "none"], "inputs": "w1"}).status_code == 200
        monkeypatch.setattr(live.runtime.registry, "tasks", fails)
        assert live.client.get("/v1/tasks").status_code == 500
        assert live.client.get("/nowhere").status_code == 404
    assert len(receiver.named("POST /v1/predict")) == 3  # all were sent by the end
    assert len(receiver.named("compute")) == 3
    assert len({span.trace_id for span in receiver.named("POST /v1/predict")}) == 3
    (failed,) = receiver.named("GET /v1/tasks")
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "InternalServerError"
    (lost,) = receiver.named("GET")
    assert lost.status.code == Status.STATUS_CODE_UNSET
    assert attributes(lost)["http.response.status_code"] == 404
    assert {resource["service.name"] for resource in receiver.resources} == {"hats"}
    assert len(receiver.spans) == 3 * 4 + 2 + len(receiver.named("GET /readyz"))


def test_what_the_parent_does_not_sample_is_not_sent(start, receiver: Receiver) -> None:
    with start(otlp_endpoint=receiver.address) as live:
        sampled_parent = "00f067aa0ba902b7"
        for parent, sampled in ((PARENT, "00"), (sampled_parent, "01")):
            live.client.get("/healthz", headers={"traceparent": f"00-{TRACE}-{parent}-{sampled}"})
        live.client.get("/v1/tasks", headers={"traceparent": "nonsense"})
    (span,) = receiver.named("GET /healthz")
    assert span.parent_span_id.hex() == sampled_parent
    (other,) = receiver.named("GET /v1/tasks")
    assert not other.parent_span_id


def test_a_receiver_that_is_not_there_holds_nobody_up(start, caplog) -> None:
    with start(otlp_endpoint="http://127.0.0.1:9") as live:
        for _ in range(3):
            assert live.ask("base", "w1").status_code == 200


def test_what_asks_for_traces() -> None:
    assert traces.wanted("http://localhost:4318", {})
    assert traces.wanted("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})
    assert traces.wanted("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"})
    assert not traces.wanted("", {"OTEL_SERVICE_NAME": "other"})
    assert not traces.wanted("http://localhost:4318", {"OTEL_SDK_DISABLED": "true"})
    assert not traces.wanted("http://localhost:4318", {"OTEL_TRACES_EXPORTER": "none"})


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(WrongSetting, match=r"otlp_endpoint needs the extra otel: pip install 'manyhats\[otel\]'"):
        open_recorder("off", "http://localhost:4318")
    monkeypatch.setattr(sinks.traces, "wanted", lambda endpoint: True)
    assert open_recorder("off", "") is None
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the environment asks for traces, which needs the extra otel: pip install 'manyhats[otel]'; none are sent"
    ]

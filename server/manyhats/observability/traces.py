"""OpenTelemetry's traces of requests, sent over OTLP: a span for the request, and for queue, load, compute and render.

All that a request's spans say is known when it has ended, so they are made then, in the recorder's thread, with the
times that were measured: a request pays nothing for them. Needs the extra `otel`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manyhats._version import __version__
from manyhats.core.answered import Answered
from manyhats.errors import WrongSetting
from manyhats.observability.records import RequestRecord
from manyhats.observability.request_log import render_seconds

_PATH = "/v1/traces"  # of a receiver, where an endpoint names none
_MOST_ITEMS = 64  # items of one request that have spans
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MISSING = "needs the extra otel: pip install 'manyhats[otel]'"


def wanted(endpoint: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether traces are to be sent: to the setting's `endpoint`, or as OpenTelemetry's own variables say."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(endpoint) or any(environment.get(name) for name in _ENDPOINTS)


class Traces:
    """Sends spans to the OTLP receiver at `endpoint` (`http://host:4318`); empty: where OpenTelemetry's variables say.

    Raises WrongSetting where the extra is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise WrongSetting(f"otlp_endpoint {MISSING} ({error.name} is not there)") from None
        exporter = OTLPSpanExporter(endpoint=_traces_address(endpoint)) if endpoint else OTLPSpanExporter()
        self._provider = TracerProvider(resource=Resource.create(_resource(os.environ)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("manyhats", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Makes the spans of some requests."""
        for record in records:
            self._trace(record)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def _trace(self, record: RequestRecord) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        def at(moment: float) -> int:
            """A time by `time.monotonic()`, in nanoseconds since 1970."""
            return round((record.wall + moment - record.ended) * 1e9)

        call = record.call
        headers = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        parent = self._propagator.extract({name: value for name, value in headers.items() if value})
        name = " ".join(filter(None, (record.verb, call.route))) or "refused"
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, dict(_request_attributes(record)), start_time=at(record.began)
        )
        if (context := span.get_span_context()).trace_flags.sampled:
            record.trace_id = f"{context.trace_id:032x}"
        inside = set_span_in_context(span)
        for one in (call.answers or [])[:_MOST_ITEMS]:
            attributes = dict(_item_attributes(one))
            for phase, begin, end in _phases(one, record):
                part = self._tracer.start_span(phase, inside, attributes=attributes, start_time=at(begin))
                part.end(at(end))
        if call.status >= 500:
            span.set_status(Status(StatusCode.ERROR, call.error or None))
        span.end(at(record.ended))


def _phases(one: Answered, record: RequestRecord) -> Iterable[tuple[str, float, float]]:
    """What an item's time went into: a name, when it began, and when it ended."""
    if one.load_ms:
        yield "load", one.received, one.received + one.load_ms / 1000
    if one.submitted and one.started:
        yield "queue", one.submitted, one.started
    if one.started and one.batch is not None:
        yield "compute", one.started, one.batch.ended
        if not one.error:
            yield "render", one.batch.ended, one.batch.ended + render_seconds(one, record)


def _request_attributes(record: RequestRecord) -> Iterable[tuple[str, Any]]:
    call = record.call
    yield "http.request.method", record.verb or "_OTHER"
    if call.route:
        yield "http.route", call.route
    yield "url.path", record.path
    yield "http.response.status_code", call.status
    yield "manyhats.request_id", call.id
    if call.error:
        yield "error.type", call.error
    if call.caller.tenant:
        yield "manyhats.tenant", call.caller.tenant
    if call.caller.key:
        yield "manyhats.key", call.caller.key


def _item_attributes(one: Answered) -> Iterable[tuple[str, Any]]:
    yield "manyhats.task", one.task
    yield "manyhats.version", one.version
    yield "manyhats.sha256", one.sha256
    yield "manyhats.method", one.method
    yield "manyhats.kind", one.kind
    yield "manyhats.inputs", one.inputs
    yield "manyhats.input_tokens", one.input_tokens
    yield "manyhats.output_tokens", one.output_tokens
    if one.batch is not None:
        yield "manyhats.batch.id", one.batch.id
        yield "manyhats.batch.sequences", one.batch.sequences
        yield "manyhats.batch.tasks", len(one.batch.tasks)
    if one.error:
        yield "error.type", one.error


def _traces_address(endpoint: str) -> str:
    """The address for traces below an endpoint, as OpenTelemetry's own variable has it."""
    return endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH


def _resource(environment: Mapping[str, str]) -> dict[str, str]:
    """Who sends the traces, as far as OpenTelemetry's variables do not say it."""
    named = "OTEL_SERVICE_NAME" in environment or "service.name" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"service.version": __version__} | ({} if named else {"service.name": "manyhats"})

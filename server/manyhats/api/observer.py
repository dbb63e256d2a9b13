"""Sees each request begin and end: counts it, and has it written down where that is set."""

from __future__ import annotations

import time

from starlette.types import Scope

from manyhats.api.middleware.headers import FirstValues
from manyhats.core.call import Call
from manyhats.observability.recorder import Recorder
from manyhats.observability.records import RequestRecord
from manyhats.serving.http_metrics import NO_ROUTE, HttpMetrics

_VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HUNG_UP = 499  # the status of a request whose client hung up before its answer was begun
_LONGEST_HEADER = 512  # characters of a header that is kept
_LONGEST_PATH = 2000


class Observer:
    """Counts requests in `http`, and gives them to `recorder`, where there is one. `with_texts`: with texts."""

    def __init__(self, http: HttpMetrics, recorder: Recorder | None, *, with_texts: bool) -> None:
        self._http = http
        self._recorder = recorder
        self._with_texts = with_texts

    def begun(self, call: Call) -> None:
        """A request's head is there."""
        if self._recorder is not None:
            call.answers, call.with_texts = [], self._with_texts

    def ended(self, call: Call, scope: Scope, headers: FirstValues, begin: float) -> None:
        """The last of an answer was given to the connection. `begin`: of the request, by `time.monotonic()`."""
        end, verb = time.monotonic(), scope["method"]
        call.status = call.status or _HUNG_UP
        route = f"{verb if verb in _VERBS else 'OTHER'} {call.route}" if call.route else NO_ROUTE
        self._http.ended(route, call.status, end - begin)
        if self._recorder is not None:
            parent, state = (_header(headers, name) for name in (b"traceparent", b"tracestate"))
            path = scope["path"][:_LONGEST_PATH]
            self._recorder.put(RequestRecord(call, verb, path, begin, end, time.time(), parent, state))

    def refused(self, call: Call) -> None:
        """A connection, or what came over it, was refused: there is no request."""
        self._http.ended(NO_ROUTE, call.status, 0.0)
        if self._recorder is not None:
            now = time.monotonic()
            self._recorder.put(RequestRecord(call, "", "", now, now, time.time()))


def _header(headers: FirstValues, name: bytes) -> str:
    value = headers.get(name, b"")
    return value.decode("latin-1") if len(value) <= _LONGEST_HEADER else ""

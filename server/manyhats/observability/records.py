"""One request of a client, from its head to its answer's end, for those who write it down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from manyhats.core.call import Call

_TRACE_PARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_NO_TRACE = "0" * 32


@dataclass(slots=True)
class RequestRecord:
    """A request that has ended. `began`, `ended`: by `time.monotonic()`; `wall`: when it ended, Unix, seconds.

    `verb`: the HTTP method, empty where nothing could be read. `path`: without what stands behind `?`. `traceparent`,
    `tracestate`: the headers, as they came. `trace_id`: of the trace that it belongs to.
    """

    call: Call
    verb: str
    path: str
    began: float
    ended: float
    wall: float
    traceparent: str = ""
    tracestate: str = ""
    trace_id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        match = _TRACE_PARENT.fullmatch(self.traceparent)
        if match is not None and match[1] != _NO_TRACE:
            self.trace_id = match[1]


class Sink(Protocol):
    """Where records go. Called in one thread."""

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Takes some records. May wait."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...

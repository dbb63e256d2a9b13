"""The log of requests: one JSON object a line for each, which no caller can forge.

JSON has no line break inside a string but as an escape, so that what a caller sends stays inside its field.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

from manyhats.core.answered import Answered
from manyhats.observability.records import RequestRecord

_LONGEST = 500  # characters of what a caller chooses: a path, a task's name
_LONGEST_TEXT = 2000  # characters of a text that is logged
_LONGEST_OUTPUTS = 4000  # bytes of the outputs of an item that are logged
_MOST_ITEMS = 64  # items of one request that have an entry of their own
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


class RequestLog:
    """Writes to `stream`, a line for each request."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Writes the lines of some records together."""
        self._stream.write(b"".join(map(line_of, records)))
        self._stream.flush()

    def close(self) -> None:
        """All has been written."""


def line_of(record: RequestRecord) -> bytes:
    """The line of a request."""
    return orjson.dumps(fields_of(record), default=repr, option=_OPTIONS)


def fields_of(record: RequestRecord) -> dict[str, Any]:
    """What the line of a request says. Times end in `_ms`. What there is nothing of is left out."""
    call = record.call
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": call.id,
        "verb": record.verb,
        "route": call.route,
        "path": _shortened(record.path, _LONGEST),
        "status": call.status,
        "tenant": call.caller.tenant,
        "key": call.caller.key,
        "total_ms": _rounded((record.ended - record.began) * 1000),
    }
    items = call.answers or []
    if len(items) == 1:
        fields |= _item(items[0], record)
    elif items:
        fields |= {
            name: sum(getattr(one, name) for one in items) for name in ("inputs", "input_tokens", "output_tokens")
        }
        fields["items"] = [_item(one, record) for one in items[:_MOST_ITEMS]]
        if len(items) > _MOST_ITEMS:
            fields["items_left_out"] = len(items) - _MOST_ITEMS
    if call.error:
        fields["error"] = call.error
    if record.trace_id:
        fields["trace_id"] = record.trace_id
    return fields


def render_seconds(one: Answered, record: RequestRecord) -> float:
    """From the end of an item's last pass to the end of the answer; 0.0 where there was no pass."""
    return 0.0 if one.batch is None or one.error else max(record.ended - one.batch.ended, 0.0)


def _item(one: Answered, record: RequestRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"task": _shortened(one.task, _LONGEST)}
    if one.found:
        fields |= {"version": one.version, "sha256": one.sha256, "method": one.method, "kind": one.kind}
    fields |= {
        "inputs": one.inputs,
        "input_tokens": one.input_tokens,
        "output_tokens": one.output_tokens,
        "queue_ms": _rounded(one.queue_ms),
        "load_ms": _rounded(one.load_ms),
        "compute_ms": _rounded(one.compute_ms),
        "render_ms": _rounded(render_seconds(one, record) * 1000),
    }
    if one.batch is not None:
        fields["batch"] = {"id": one.batch.id, "sequences": one.batch.sequences, "tasks": len(one.batch.tasks)}
    if one.error:
        fields["error"] = one.error
    if one.texts is not None:
        fields["texts"] = [_shortened(str(text), _LONGEST_TEXT) for text in one.texts]
    if one.outputs is not None:
        written = orjson.dumps(one.outputs, default=repr, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(written) <= _LONGEST_OUTPUTS:
            fields["outputs"] = orjson.Fragment(written)
        else:
            fields["outputs_left_out_bytes"] = len(written)
    return fields


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 3)


def _shortened(text: str, longest: int) -> str:
    """A text that JSON can carry: not longer than that, and without halves of characters."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()

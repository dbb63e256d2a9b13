"""The line of a request: whole, on one line, and with nothing in it that a caller could forge or fill a disk with."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.answered import Answered
from manyhats.core.call import Call, Caller
from manyhats.core.report import BatchReport
from manyhats.observability.records import RequestRecord
from manyhats.observability.request_log import RequestLog, line_of

BATCH = BatchReport(7, {"spam": 2, "topic": 1}, ("lora",), 3, 20, 0.004, ended=10.006)
ITEM = Answered(
    "spam", 10.0, 0.008, version=3, sha256="ab", method="lora", kind="classify", inputs=2, input_tokens=9, queue_ms=1.0,
    load_ms=0.5, compute_ms=4.0, submitted=10.001, started=10.002, batch=BATCH,
)  # fmt: skip


def record(*items: Answered, path: str = "/v1/tasks/spam/predict", **fields: Any) -> RequestRecord:
    call = Call("r1", Caller("acme", "ci"), route="/v1/tasks/{task}/predict", status=200, answers=list(items))
    return RequestRecord(call, "POST", path, 10.0, 10.009, 1_760_000_000.25, **fields)


def fields(one: RequestRecord) -> dict[str, Any]:
    line = line_of(one)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    return json.loads(line)


def test_one_line_says_all_of_a_request() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert fields(record(ITEM, traceparent=trace)) == {
        "time": "2025-10-09T08:53:20.250Z",
        "id": "r1",
        "verb": "POST",
        "route": "/v1/tasks/{task}/predict",
        "path": "/v1/tasks/spam/predict",
        "status": 200,
        "tenant": "acme",
        "key": "ci",
        "total_ms": 9.0,
        "task": "spam",
        "version": 3,
        "sha256": "ab",
        "method": "lora",
        "kind": "classify",
        "inputs": 2,
        "input_tokens": 9,
        "output_tokens": 0,
        "queue_ms": 1.0,
        "load_ms": 0.5,
        "compute_ms": 4.0,
        "render_ms": 3.0,
        "batch": {"id": 7, "sequences": 3, "tasks": 2},
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_many_items_are_summed_and_the_first_ones_named() -> None:
    failed = Answered("gone", 10.0, 0.001, "NotFound", found=False)
    line = fields(record(*[ITEM] * 99, failed))
    assert (line["inputs"], line["input_tokens"]) == (198, 891)
    assert len(line["items"]) == 64
    assert line["items_left_out"] == 36
    two = fields(record(ITEM, failed))
    assert [item.get("error") for item in two["items"]] == [None, "NotFound"]
    assert two["items"][0]["batch"]["id"] == 7


def test_a_request_without_a_task_has_a_line_too() -> None:
    line = fields(record())
    assert "task" not in line
    assert line["status"] == 200


def test_texts_stand_in_it_only_where_they_are_given_and_not_without_end() -> None:
    assert "texts" not in fields(record(ITEM))
    item = Answered("spam", 10.0, 0.1, texts=["buy\nnow", "x" * 5000], outputs=[{"vector": np.ones(3, np.float32)}])
    line = fields(record(item))
    assert line["texts"][0] == "buy\nnow"
    assert len(line["texts"][1]) < 2100
    assert line["outputs"] == [{"vector": [1.0, 1.0, 1.0]}]
    item.outputs = [{"vector": np.ones(100_000, np.float32)}]
    assert fields(record(item))["outputs_left_out_bytes"] > 100_000
    assert len(line_of(record(item))) < 5000


@given(text=st.text(st.characters(), max_size=40) | st.just('"}\r\n{"id": "forged"}\u2028') | st.just("\ud800" * 3))
def test_nothing_that_a_caller_sends_makes_another_line(text: str) -> None:
    item = Answered(text, 10.0, 0.1, found=False, error="NotFound", texts=[text])
    line = fields(record(item, path=text))
    assert line["id"] == "r1"
    assert line["path"] == line["task"] == line["texts"][0]
    assert len(line["task"]) >= len(text) or len(text) > 500


def test_what_is_long_is_shortened() -> None:
    assert len(line_of(record(Answered("t" * 100_000, 10.0, 0.1), path="/" + "p" * 100_000))) < 2500


def test_lines_are_written_together() -> None:
    out = io.BytesIO()
    log = RequestLog(out)
    log.write([record(ITEM), record()])
    log.close()
    assert [json.loads(line)["id"] for line in out.getvalue().splitlines()] == ["r1", "r1"]

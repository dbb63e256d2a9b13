"""A log that callers can neither forge nor fill."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.observability.logs import JsonFormatter, RepeatFilter, SafeFormatter, without_query


class Log:
    """A logger as the server's, with a clock that is set by hand."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        self._out = io.StringIO()
        handler = logging.StreamHandler(self._out)
        handler.setFormatter(SafeFormatter("%(levelname)s %(name)s  %(message)s"))
        self.filter = RepeatFilter(clock=lambda: self.now, **limits)
        handler.addFilter(self.filter)
        handler.addFilter(without_query)
        self.logger = logging.getLogger("uvicorn.access")
        self.handlers = self.logger.handlers, self.logger.propagate, self.logger.level
        self.logger.handlers, self.logger.propagate = [handler], False
        self.logger.setLevel("DEBUG")

    @property
    def lines(self) -> list[str]:
        return self._out.getvalue().splitlines()


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.logger.handlers, log.logger.propagate, log.logger.level = log.handlers


def test_the_same_warning_again_and_again_is_left_out_and_counted(log: Log):
    def warn() -> None:
        log.logger.warning("all %d connections are in use", 7)

    for _ in range(10_000):
        warn()
    assert log.lines == ["WARNING uvicorn.access  all 7 connections are in use"] * 5
    log.now = 61.0
    warn()
    assert log.lines[-1] == (
        "WARNING uvicorn.access  all 7 connections are in use (9995 more like this were left out before)"
    )
    warn()
    assert log.lines[-1] == log.lines[0]


def test_warnings_that_differ_all_pass_within_reason(log: Log):
    for i in range(1000):
        log.logger.warning("the folder %s is refused", i)
    assert len(set(log.lines)) == len(log.lines) == 100
    for i in range(1000):
        log.logger.info("the folder %s is taken in", i)
    assert len(log.lines) == 1100  # what is no warning says something new each time
    log.logger.warning("another thing")
    assert log.lines[-1].endswith("another thing")


def test_what_is_remembered_is_bounded(log: Log):
    for i in range(5000):
        log.logger.warning("x" * i)
        log.now += 100
    assert len(log.filter._seen) <= RepeatFilter.MOST


def test_nothing_that_a_caller_sends_makes_a_line_of_its_own():
    sent = "/x\n2026-01-01 00:00:00 INFO root  forged\r\x1b[2J\u2028\u202e\x00\x85\udcff"
    # Not through a logger: pytest keeps what those are given, and half a surrogate pair cannot be sent on.
    record = logging.LogRecord("uvicorn.access", logging.ERROR, __file__, 1, "POST %s failed", (sent,), None)
    line = SafeFormatter("%(levelname)s %(name)s  %(message)s").format(record)
    assert line.endswith(r"/x\n2026-01-01 00:00:00 INFO root  forged\r\x1b[2J\u2028\u202e\x00\x85\udcff failed")
    assert line.isprintable()


def test_a_traceback_stands_in_lines_of_its_own_that_are_moved_in(log: Log):
    try:
        raise ValueError("a\nINFO root  forged\x1b")
    except ValueError:
        log.logger.exception("failed")
    assert log.lines[0] == "ERROR uvicorn.access  failed"
    assert all(line.startswith("  ") for line in log.lines[1:])
    assert "Traceback" in log.lines[1]
    assert "  INFO root  forged\\x1b" in log.lines


def test_long_texts_are_cut(log: Log):
    log.logger.error("%s failed", "a" * (1 << 20) + "end")
    (line,) = log.lines
    assert len(line) < 2200
    assert re.search(r"a \.\.\. \d+ characters left out \.\.\. a+end failed$", line)
    try:
        raise ValueError("b" * (1 << 20))
    except ValueError:
        log.logger.exception("failed")
    assert sum(map(len, log.lines)) < 20_000


def test_what_stands_behind_a_path_is_not_logged(log: Log):
    log.logger.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/v1/tasks?key=secret", "1.1", 200)
    assert log.lines == ['INFO uvicorn.access  127.0.0.1:1 - "GET /v1/tasks HTTP/1.1" 200']


def json_line(*given: Any, error: BaseException | None = None) -> dict[str, Any]:
    record = logging.LogRecord(
        "manyhats", logging.ERROR, "f", 1, *given, None if error is None else (type(error), error, None)
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_lines_of_json_have_their_fields_and_nothing_else_makes_one():
    try:
        raise ValueError("forged\n{}\r\u2028\ud800")
    except ValueError as error:
        line = json_line("%s %s", ("a\nb\ud800", "x" * 5000), error=error)
    assert line.keys() == {"time", "level", "logger", "message", "traceback"}
    assert line["level"] == "error"
    assert line["message"].startswith("a\nb\\ud800 x")
    assert len(line["message"]) < 2100
    assert "forged" in line["traceback"]


def test_what_a_request_does_is_logged_under_its_id(log: Log):
    token = CURRENT_CALL.set(Call("r1"))
    try:
        log.logger.info("one")
        assert json_line("two", ())["request_id"] == "r1"
    finally:
        CURRENT_CALL.reset(token)
    log.logger.info("three")
    assert log.lines == ["INFO uvicorn.access  one [request r1]", "INFO uvicorn.access  three"]
    assert "request_id" not in json_line("four", ())

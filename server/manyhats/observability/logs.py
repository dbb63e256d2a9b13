"""The log: one line for each thing that happened, which no caller can forge, and no flood of which fills a disk."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import orjson

from manyhats.core.call import CURRENT_CALL

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
_LONGEST = 2000  # characters of a message
_LONGEST_TRACE = 16_000  # characters of a traceback
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(_CONTROL.pattern.replace(r"\x0a-", r"\x0b-"))


def configure(level: str, form: Literal["text", "json"] = "text") -> None:
    """Writes everything from `level` (`info`) on to stderr, as lines of text or of JSON (`form`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter(_FORMAT) if form == "text" else JsonFormatter())
    handler.addFilter(RepeatFilter())
    handler.addFilter(without_query)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for noisy in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(noisy).setLevel("WARNING")


def set_level(level: str) -> None:
    """Writes everything from `level` on, from now."""
    logging.getLogger().setLevel(level.upper())


class SafeFormatter(logging.Formatter):
    """Cuts what is long and escapes control characters: a message may hold what a caller has sent."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        record.message = _CONTROL.sub(_escaped, _truncated(record.message, _LONGEST))
        if request_id := CURRENT_CALL.get().id:
            record.message += f" [request {request_id}]"
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        """A traceback, indented, so that none of its lines looks like one of the log's own."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return textwrap.indent(_CONTROL_BUT_LINES.sub(_escaped, _truncated(text, _LONGEST_TRACE)), "  ", lambda _: True)


class JsonFormatter(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`; `request_id`, of what a request does; a `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _truncated(record.getMessage(), _LONGEST),
        }
        if request_id := CURRENT_CALL.get().id:
            fields["request_id"] = request_id
        if record.exc_info:
            fields["traceback"] = _truncated(self.formatException(record.exc_info), _LONGEST_TRACE)
        return orjson.dumps({name: _encodable(text) for name, text in fields.items()}).decode()


class RepeatFilter(logging.Filter):
    """Leaves out warnings and errors that come again and again, and says how many they were.

    In `period` seconds so many pass: `same` of one text, `alike` of one place in the code. The next one that passes
    says how many were left out before it. `clock` gives the time in seconds.
    """

    MOST = 512  # texts and places that are counted

    def __init__(
        self, *, same: int = 5, alike: int = 100, period: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._limits = (same, alike)
        self._period = period
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], _Count] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written. What was left out before is put behind its message."""
        if record.levelno < logging.WARNING:
            return True
        place = (record.name, record.levelno, record.pathname, record.lineno)
        text = _truncated(record.getMessage(), _LONGEST)
        counts = [self._count(key) for key in ((*place, hash(text)), place)]
        passes = all(count.passed < limit for count, limit in zip(counts, self._limits, strict=True))
        if not passes:
            counts[1].left_out += 1
            return False
        for count in counts:
            count.passed += 1
        if counts[1].left_out:
            record.msg = f"{text} ({counts[1].left_out} more like this were left out before)"
            record.args = None
            counts[1].left_out = 0
        return True

    def _count(self, key: tuple[object, ...]) -> _Count:
        now = self._clock()
        count = self._seen.get(key)
        if count is None:
            count = self._seen[key] = _Count(now)
            if len(self._seen) > self.MOST:
                self._seen.popitem(last=False)
        elif now - count.since >= self._period:
            count.since, count.passed = now, 0
        self._seen.move_to_end(key)
        return count


@dataclass
class _Count:
    since: float
    passed: int = 0
    left_out: int = 0


def without_query(record: logging.LogRecord) -> bool:
    """Takes what stands behind `?` out of uvicorn's lines about requests: it may hold what nobody should read."""
    if record.name == "uvicorn.access" and isinstance(record.args, tuple):
        record.args = tuple(part.partition("?")[0] if isinstance(part, str) else part for part in record.args)
    return True


def _truncated(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def _encodable(text: str) -> str:
    """A text without halves of characters, which no encoding has."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode()

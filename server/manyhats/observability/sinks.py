"""Where what is recorded of requests goes, by the settings."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from manyhats.errors import WrongSetting
from manyhats.observability import traces
from manyhats.observability.recorder import Recorder
from manyhats.observability.records import Sink
from manyhats.observability.request_log import RequestLog

logger = logging.getLogger(__name__)


def open_recorder(request_log: Literal["off", "stdout", "log"], otlp_endpoint: str) -> Recorder | None:
    """What writes requests down; None where nothing is to be written.

    Raises WrongSetting where traces are set and their libraries are not installed. Where only the environment asks for
    traces, which may be one for many programs, that is logged.
    """
    sinks: list[Sink] = []
    if traces.wanted(otlp_endpoint):
        try:
            sinks.append(traces.Traces(otlp_endpoint))  # first: the log has the trace's id
        except WrongSetting as error:
            if otlp_endpoint:
                raise
            logger.warning("the environment asks for traces, which %s; none are sent", traces.MISSING)
            logger.debug("%s", error)
    if request_log != "off":
        stream = sys.stdout if request_log == "stdout" else sys.stderr
        sinks.append(RequestLog(stream.buffer))
    return Recorder(sinks) if sinks else None

"""Hands what is to be written of requests to a thread of its own: no request waits for a disk, a pipe or a network."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from manyhats.observability.records import RequestRecord, Sink

logger = logging.getLogger(__name__)

_MOST = 8192  # records that wait; more are left out, and counted
_PAUSE = 0.05  # seconds that the thread waits for further records before it takes them all
_CLOSING = 5.0  # seconds that the end waits for what is left


class Recorder:
    """Writes requests that have ended to `sinks`. `put` is called by one thread, and returns at once."""

    def __init__(self, sinks: Sequence[Sink], *, most: int = _MOST) -> None:
        self._sinks = sinks
        self._most = most
        self._records: deque[RequestRecord] = deque()
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="recorder", daemon=True)
        self.dropped = 0  # records that were left out

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Takes a record, or counts it where too many wait."""
        if len(self._records) >= self._most:
            self.dropped += 1
            return
        self._records.append(record)
        if not self._woken.is_set():
            self._woken.set()

    def close(self) -> None:
        """Writes what waits, within some seconds, and ends the thread."""
        if self._thread.ident is None:
            return
        self._stopping = True
        self._woken.set()
        self._thread.join(_CLOSING)

    def _loop(self) -> None:
        while not self._stopping:
            self._woken.wait()
            if not self._stopping:
                time.sleep(_PAUSE)
            self._woken.clear()
            self._drain()
        self._drain()
        for sink in self._sinks:
            try:
                sink.close()
            except Exception:
                logger.exception("what was recorded of requests could not be written to its end")

    def _drain(self) -> None:
        records = [self._records.popleft() for _ in range(len(self._records))]
        if not records:
            return
        for sink in self._sinks:
            try:
                sink.write(records)
            except Exception:  # a sink that fails must not end the others
                logger.exception("%d requests could not be recorded", len(records))

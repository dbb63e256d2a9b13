"""What is written of requests holds nobody up, and one that cannot be written harms no other."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from manyhats.core.call import Call
from manyhats.observability.recorder import Recorder
from manyhats.observability.records import RequestRecord

from tests.waiting import PATIENCE, wait_until


def record(number: int) -> RequestRecord:
    return RequestRecord(Call(str(number)), "GET", "/", 1.0, 2.0, 3.0)


class Kept:
    """A sink that keeps what it gets; closed gates hold it, and it fails at records named in `bad`."""

    def __init__(self, *, bad: str = "") -> None:
        self.ids: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.closed = False
        self._bad = bad

    def write(self, records: Sequence[RequestRecord]) -> None:
        assert self.open.wait(PATIENCE)
        if any(one.call.id == self._bad for one in records):
            raise ValueError("on purpose")
        self.ids += [one.call.id for one in records]

    def close(self) -> None:
        self.closed = True


def test_all_are_written_in_order_and_the_last_at_the_end() -> None:
    sink = Kept()
    recorder = Recorder([sink])
    recorder.start()
    for i in range(100):
        recorder.put(record(i))
    recorder.close()
    assert sink.ids == [str(i) for i in range(100)]
    assert sink.closed
    assert recorder.dropped == 0


def test_who_is_too_slow_loses_some_and_the_server_goes_on() -> None:
    sink = Kept()
    sink.open.clear()
    recorder = Recorder([sink], most=10)
    recorder.start()
    recorder.put(record(0))
    wait_until(lambda: not recorder._records, "the first one is being written")
    for i in range(1, 101):
        recorder.put(record(i))
    assert recorder.dropped == 90
    sink.open.set()
    recorder.close()
    assert sink.ids == [str(i) for i in range(11)]


def test_a_sink_that_fails_harms_no_other(caplog) -> None:
    bad, good = Kept(bad="0"), Kept()
    recorder = Recorder([bad, good])
    recorder.start()
    recorder.put(record(0))
    wait_until(lambda: good.ids, "the first one was written")
    recorder.put(record(1))
    recorder.close()
    assert (bad.ids, good.ids) == (["1"], ["0", "1"])
    assert "1 requests could not be recorded" in caplog.text


def test_one_that_was_never_started_ends_at_once() -> None:
    Recorder([Kept()]).close()

"""What is remembered of the last minutes."""

from __future__ import annotations

from manyhats.core.report import BatchReport
from manyhats.serving import activity
from manyhats.serving.activity import INTERVAL, INTERVALS, MAX_BATCHES, RecentBatches, RecentTraffic

NOON = 43_200.0
ERROR = ValueError("on purpose")


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def test_the_last_batches_are_kept():
    recent = RecentBatches()
    assert recent.last(5) == []
    for number in range(MAX_BATCHES + 10):
        recent.add(BatchReport(number, {"one": 1}, ("lora",), 1, 4, 0.001))
    assert [report.id for _, report in recent.last(3)] == [MAX_BATCHES + 9, MAX_BATCHES + 8, MAX_BATCHES + 7]
    assert len(recent.last(10 * MAX_BATCHES)) == MAX_BATCHES


def test_requests_are_counted_in_their_interval():
    clock = Clock()
    traffic = RecentTraffic(clock)
    traffic.answered("one", None, 0.2)
    traffic.answered("one", None, 0.4)
    traffic.answered("one", ERROR, 9.0)
    traffic.answered("", ERROR, 9.0)
    clock.now += 2 * INTERVAL
    traffic.answered("two", None, 0.1)
    end, total, by_task = traffic.history(["one", "two", "three"])
    assert end == NOON + 3 * INTERVAL
    assert [one.requests for one in total] == [0] * (INTERVALS - 3) + [4, 0, 1]
    assert set(by_task) == {"one", "two"}
    first = by_task["one"][-3]
    assert (first.requests, first.failed, round(first.seconds, 6), first.longest) == (3, 1, 0.6, 0.4)
    assert by_task["one"][-1].requests == 0
    assert traffic.busiest(1) == ["one"]
    assert traffic.busiest(9) == ["one", "two"]


def test_old_traffic_is_forgotten():
    clock = Clock()
    traffic = RecentTraffic(clock)
    for _ in range(INTERVALS + 5):
        traffic.answered("one", None, 0.1)
        clock.now += INTERVAL
    clock.now += INTERVAL * (INTERVALS - 2)
    _, total, by_task = traffic.history(["one"])
    assert sum(one.requests for one in total) == sum(one.requests for one in by_task["one"]) == 1
    clock.now += INTERVAL
    assert traffic.history(["one"])[2] == {}
    assert traffic.busiest(9) == []


def test_a_clock_that_is_put_back_does_no_harm():
    clock = Clock()
    traffic = RecentTraffic(clock)
    traffic.answered("one", None, 0.1)
    clock.now -= 10 * INTERVAL
    traffic.answered("one", None, 0.1)
    assert [counted.requests for counted in traffic.history(["one"])[1]] == [0] * INTERVALS
    clock.now = NOON
    assert traffic.history(["one"])[1][-1].requests == 2


def test_the_tasks_of_an_interval_are_bounded(monkeypatch):
    monkeypatch.setattr(activity, "_MAX_TASKS", 3)
    traffic = RecentTraffic(Clock())
    for number in range(5):
        traffic.answered(f"task-{number}", None, 0.1)
    assert traffic.busiest(9) == ["task-0", "task-1", "task-2"]
    assert traffic.history([])[1][-1].requests == 5

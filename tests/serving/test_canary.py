"""When a canary is withdrawn, with latencies and a clock of the test's own."""

from __future__ import annotations

import time

import pytest
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.errors import (
    DamagedStore,
    DeadlineExceeded,
    EngineFailure,
    InputTooLong,
    InvalidRequest,
    ManyhatsError,
    NotReady,
    Overloaded,
)
from manyhats.registry.rollout import MAX_REQUESTS, Canary
from manyhats.serving.canary import CanaryWindow, is_fault

MAIN, CANARY = 2, 3


class Clock:
    """Stands still until it is put forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def window(clock: Clock | None = None, **bounds: float) -> CanaryWindow:
    return CanaryWindow(Canary(CANARY, **{"min_requests": 10, **bounds}), clock or Clock())  # type: ignore[arg-type]


def added(one: CanaryWindow, version: int, *latencies: float | None) -> list[str]:
    """Adds requests; the reasons for a withdrawal."""
    return [reason for latency in latencies if (reason := one.add(version, latency)) is not None]


def test_faults_beyond_the_bound_withdraw_it_once_there_are_enough_requests() -> None:
    one = window(max_error_rate=0.2)
    assert not added(one, CANARY, *[None] * 9)
    (reason,) = added(one, CANARY, 1.0)
    assert reason == "9 of its last 10 requests failed by the server's fault, which is more than 20 %"


def test_at_the_bound_it_stays() -> None:
    one = window(max_error_rate=0.2)
    assert not added(one, CANARY, None, None, *[1.0] * 8)
    assert added(one, CANARY, None)


def test_the_others_faults_are_not_its_own() -> None:
    one = window(max_error_rate=0.0)
    assert not added(one, MAIN, *[None] * 100)
    assert not added(one, CANARY, *[1.0] * 50)


def test_what_is_older_than_the_window_counts_no_more() -> None:
    clock = Clock()
    one = window(clock, max_error_rate=0.2, window_seconds=60)
    assert not added(one, CANARY, *[None] * 9)
    clock.now += 61
    assert not added(one, CANARY, *[1.0] * 30)
    own, _ = one.counts()
    assert (own.requests, own.faults, own.error_rate) == (30, 0, 0.0)


def test_a_slow_95th_percentile_withdraws_it() -> None:
    one = window(max_p95_ms=50)
    assert not added(one, CANARY, *[49.0] * 100)
    reasons = added(one, CANARY, *[80.0] * 20)
    assert "80.0 ms, which is more than 50 ms" in reasons[0]


def test_a_few_slow_answers_do_not() -> None:
    one = window(max_p95_ms=50)
    assert not added(one, CANARY, *([10.0] * 96 + [500.0] * 4) * 3)


def test_latency_is_compared_with_the_others_once_there_are_enough_of_both() -> None:
    one = window(max_latency_ratio=1.5)
    assert not added(one, CANARY, *[40.0] * 50)
    assert not added(one, MAIN, *[20.0] * 9)
    assert not added(one, CANARY, *[40.0] * 50)
    assert not added(one, MAIN, 20.0)
    reasons = added(one, CANARY, *[40.0] * 50)
    assert "40.0 ms, which is more than 1.5 times the 20.0 ms of the other versions" in reasons[0]
    calm = window(max_latency_ratio=1.5)
    assert not added(calm, MAIN, *[20.0] * 100)
    assert not added(calm, CANARY, *[29.0] * 100)


def test_what_failed_has_no_latency() -> None:
    one = window(max_p95_ms=50)
    assert not added(one, CANARY, *[None] * 9, *[80.0] * 9)
    assert added(one, CANARY, 80.0)


def test_the_requests_that_are_kept_are_bounded_and_the_faults_among_them_counted() -> None:
    one = window(max_error_rate=0.9)
    added(one, CANARY, *[None] * 100, *[1.0] * MAX_REQUESTS)
    own, others = one.counts()
    assert (own.requests, own.faults, own.p95_ms) == (MAX_REQUESTS, 0, 1.0)
    assert (others.requests, others.error_rate, others.p95_ms) == (0, None, None)


@pytest.mark.parametrize("error", [EngineFailure("x"), DamagedStore("x"), DeadlineExceeded("x")])
def test_what_the_server_did_is_a_fault(error: ManyhatsError) -> None:
    assert is_fault(error)


@pytest.mark.parametrize("error", [InvalidRequest("x"), InputTooLong("x"), Overloaded("x"), NotReady("x")])
def test_what_the_caller_did_and_a_full_queue_are_none(error: ManyhatsError) -> None:
    assert not is_fault(error)


def test_a_callers_own_deadline_is_none() -> None:
    token = CURRENT_CALL.set(Call(deadline=time.monotonic()))
    try:
        assert not is_fault(DeadlineExceeded("x"))
    finally:
        CURRENT_CALL.reset(token)

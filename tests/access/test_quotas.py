"""Requests and tokens of a key in a time."""

from __future__ import annotations

import secrets

import pytest
from manyhats.access import quotas as module
from manyhats.access.quotas import Quotas, parse_quota
from manyhats.errors import InvalidRequest, Overloaded

from tests.waiting import wait_until


def fresh() -> str:
    return secrets.token_hex(8)


def test_requests_are_counted_by_key() -> None:
    one, other = Quotas(fresh(), requests="2/hour"), Quotas(fresh(), requests="2/hour")
    for _ in range(2):
        one.take()
    with pytest.raises(Overloaded, match="2 requests a hour") as caught:
        one.take()
    assert 3500 < caught.value.retry_after <= 3600
    other.take()


def test_tokens_are_counted_when_they_are_known() -> None:
    quotas = Quotas(fresh(), tokens="10/hour")
    quotas.take()
    quotas.spend(9)
    quotas.take()  # one is left
    quotas.spend(50)
    with pytest.raises(Overloaded, match="10 tokens a hour"):
        quotas.take()
    assert dict(quotas.headers())[b"x-ratelimit-remaining-tokens"] == b"0"


def test_what_is_not_limited_is_not_counted() -> None:
    quotas = Quotas(fresh(), requests="1/hour")
    quotas.spend(1000)
    assert {name for name, _ in quotas.headers()} == {
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-reset-requests",
    }


def test_a_window_ends() -> None:
    """As its headers say. The window is the library's, of one second."""
    quotas = Quotas(fresh(), requests="1/second")
    quotas.take()
    waits = []

    def again() -> bool:
        try:
            quotas.take()
        except Overloaded as error:
            waits.append(error.retry_after)
            return False
        return True

    wait_until(again, "the next window")
    assert all(0 <= one <= 1 for one in waits)


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "0/minute", "-1/minute", "1.5/minute", "1/minutes", "1 per minute", "1/2 minute"]
)
def test_what_is_no_quota(text: str) -> None:
    with pytest.raises(InvalidRequest, match="100/minute"):
        parse_quota(text, "requests")


def test_counts_outlive_the_reading_of_the_file() -> None:
    key = fresh()
    Quotas(key, requests="1/hour").take()
    with pytest.raises(Overloaded):
        Quotas(key, requests="1/hour").take()
    assert module._limiter() is module._limiter()

"""A server that other machines reach has keys, or says loudly that it has none."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from manyhats.api.exposure import check_exposure, is_loopback
from manyhats.errors import WrongSetting
from manyhats.settings import Settings

OPEN = ["0.0.0.0", "", "::", "192.0.2.1", "0", "0.0", "no-such-name.invalid", "::ffff:192.0.2.1"]
CLOSED = ["127.0.0.1", "localhost", "::1", "127.1", "127.8.9.10"]


def logged(caplog: pytest.LogCaptureFixture, **settings: Any) -> str:
    """What the log says of settings that are allowed."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_exposure(Settings(**settings))
    return caplog.text


@pytest.mark.parametrize("host", OPEN)
def test_another_address_needs_keys_or_leave(host: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not is_loopback(host)
    with pytest.raises(WrongSetting, match=r"api_keys.*admin_keys.*allow_unauthenticated"):
        check_exposure(Settings(host=host))
    assert not logged(caplog, host=host, api_keys="k")
    assert "MAY ASK, UPLOAD AND DELETE" in logged(caplog, host=host, allow_unauthenticated=True)
    assert "may ask" in logged(caplog, host=host, admin_keys="k")


@pytest.mark.parametrize("host", CLOSED)
def test_a_loopback_address_needs_nothing(host: str, caplog: pytest.LogCaptureFixture) -> None:
    assert is_loopback(host)
    assert not logged(caplog, host=host)


def test_it_is_said_where_any_name_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    assert "allowed_hosts" in logged(caplog, host="0.0.0.0", allow_unauthenticated=True)
    assert "allowed_hosts" not in logged(caplog, host="0.0.0.0", allow_unauthenticated=True, allowed_hosts="a.example")

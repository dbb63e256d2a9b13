"""The address to listen on, before anything is loaded."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from manyhats.api.address import check_address
from manyhats.errors import ConfigurationError, WrongSetting
from manyhats.settings import Settings


def settings(**given: Any) -> Settings:
    return Settings(**({"host": "127.0.0.1", "port": 0} | given))


def test_a_free_port_is_not_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    check_address(settings(port=port))
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} of 127\.0\.0\.1 is in use"):
            check_address(settings(port=port))
        with pytest.raises(ConfigurationError, match=rf"port {port} of 0\.0\.0\.0 is in use"):
            check_address(settings(host="0.0.0.0", port=port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_another_machines_address_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(WrongSetting, match=f"setting 'host': '{host}' is no address"):
        check_address(settings(host=host))


def test_a_port_that_is_not_allowed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("manyhats.api.address._bind_as_server", bind)
    with pytest.raises(ConfigurationError, match=r"port 80 of 127\.0\.0\.1 cannot be listened on: Permission denied"):
        check_address(settings(port=80))


def test_one_address_of_a_name_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(family, socket.SOCK_STREAM, 0, "", ("x", 0)) for family in (socket.AF_INET, socket.AF_INET6)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)

    def bind(one: socket.socket, *_: object) -> None:
        if one.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr("manyhats.api.address._bind_as_server", bind)
    check_address(settings(host="localhost"))

"""Addresses and schemes that a proxy passes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from manyhats.api.server import create_server
from manyhats.settings import Settings


def seen(client: str, monkeypatch: pytest.MonkeyPatch, allowed: str | None = None) -> tuple[str, str]:
    """Address and scheme that the application sees of a request that came from `client` with a proxy's headers."""
    if allowed is None:
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    else:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", allowed)
    scopes: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    headers = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "client": (client, 1), "scheme": "http", "headers": headers}
    asyncio.run(create_server(application, Settings()).config.behind_proxy(scope, None, None))
    return scopes[0]["client"][0], scopes[0]["scheme"]


def test_an_address_that_is_claimed_is_believed_of_trusted_proxies_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen("127.0.0.1", monkeypatch) == ("203.0.113.9", "https")
    assert seen("192.0.2.1", monkeypatch) == ("192.0.2.1", "http")
    assert seen("192.0.2.1", monkeypatch, "192.0.2.0/24") == ("203.0.113.9", "https")
    assert seen("127.0.0.1", monkeypatch, "192.0.2.0/24") == ("127.0.0.1", "http")

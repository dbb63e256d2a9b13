"""Fixtures for the tests of the Python client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.driver import KINDS, Driver, Server, driven


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two clients in turn."""
    return request.param


@pytest.fixture
def server() -> Server:
    """A server of canned answers."""
    return Server()


@pytest.fixture
def client(kind: str, server: Server) -> Iterator[Driver]:
    """A client of `server`."""
    with driven(kind, server) as driver:
        yield driver

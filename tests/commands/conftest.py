"""A server that stands in for every one that a command asks."""

from __future__ import annotations

import httpx
import pytest

from tests.commands.asking import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Stands in for every server that a command asks."""
    one, client = Server(), httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **given: client(**given | {"transport": httpx.MockTransport(one)}))
    monkeypatch.delenv("MANYHATS_URL", raising=False)
    monkeypatch.delenv("MANYHATS_KEY", raising=False)
    return one

"""Engines, and a runner that blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manyhats.backbone import Backbone
from manyhats.engine.engine import Engine
from manyhats.engine.runner import Runner

from tests import engines
from tests.engine.running import BlockingRunner, Make
from tests.waiting import PATIENCE


@pytest.fixture
def engine(bert: Backbone) -> Iterator[Make]:
    """Makes engines, started or not, and stops them at the end."""
    made: list[Engine] = []

    def make(backbone: Backbone = bert, *, start: bool = True, tokens: int = 2048, limit: int = 1000) -> Engine:
        one = engines.engine(backbone, tokens=tokens, limit=limit)
        made.append(one)
        if start:
            one.start()
        return one

    yield make
    for one in made:
        one.stop(PATIENCE)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingRunner]:
    """Blocks every batch."""
    one = BlockingRunner()
    monkeypatch.setattr(Runner, "execute", lambda *given: one(*given))
    yield one
    one.proceed.set()

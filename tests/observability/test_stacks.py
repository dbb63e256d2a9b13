"""Stacks of threads that stand still, written without them."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any

import pytest
from manyhats.observability.stacks import StackDumps

from tests.waiting import PATIENCE


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What faulthandler was asked for, instead of doing it: pytest has the timer of this process."""
    asked: list[Any] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda after, **given: asked.append(after))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: asked.append("stop"))
    return asked


def test_it_is_put_off_as_often_as_it_must(timers: list[Any]) -> None:
    dumps = StackDumps(PATIENCE)
    for _ in range(1000):
        dumps.put_off()
    assert 1 <= timers.count(PATIENCE) < 1000
    dumps.stop()
    dumps.put_off()
    assert timers[-1] == "stop"


def test_without_stderr_it_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with open(os.devnull) as closed:
        pass
    monkeypatch.setattr(sys, "__stderr__", closed)
    dumps = StackDumps(PATIENCE)
    dumps.put_off()
    dumps.put_off()
    assert caplog.text.count("stacks will not be written") == 1

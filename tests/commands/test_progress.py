"""Bars stand on stderr, and only where it is a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from manyhats.commands import progress
from manyhats.commands.progress import Told, bytes_bar, lines_bar
from rich.console import Console

Bar = Callable[[str], AbstractContextManager[Told]]


def shown(bar: Bar, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    out = io.StringIO()

    def console(**given: bool) -> Console:
        assert given == {"stderr": True}
        return Console(file=out, force_terminal=terminal, width=100)

    monkeypatch.setattr(progress, "Console", console)
    with bar("to spam") as told:
        told(1_500_000, 3_000_000)
    return out.getvalue()


def test_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(bytes_bar, monkeypatch, terminal=True)
    assert "to spam" in text
    assert "1.5/3.0 MB" in text


def test_lines_are_counted_where_answers_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert "1500000/3000000" in shown(lines_bar, monkeypatch, terminal=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert shown(lines_bar, monkeypatch, terminal=True) == ""


@pytest.mark.parametrize("bar", [bytes_bar, lines_bar])
def test_nothing_is_written_where_nobody_looks(bar: Bar, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(bar, monkeypatch, terminal=False) == ""
